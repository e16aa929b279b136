// Packed matrices as bytes: the same matrix comes back, and no byte of a header can break a reader.
#include "kernels/cpu/packed_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_matrix.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cpu {
namespace {

using quant::Format;
using ::testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

std::vector<quant::Matrix> Samples() {
  std::vector<quant::Matrix> all;
  for (const bool f16 : {false, true}) {
    for (const bool offsets : {false, true}) {
      for (const Format format : {Format::kInt4Affine, Format::kInt8}) {
        for (const int32_t group : {16, 32, 64}) {
          all.push_back(quant::RandomMatrix(
              {.format = format, .rows = 21, .group = group, .offsets = offsets, .f16_scales = f16},
              9));
        }
      }
    }
  }
  quant::Matrix q4_0 = quant::RandomMatrix({.rows = 21, .offsets = true}, 2);
  for (size_t i = 0; i < q4_0.scales.size(); ++i) q4_0.offsets[i] = -8.0f * q4_0.scales[i];
  all.push_back(q4_0);
  for (const Format format : {Format::kQ4K, Format::kQ5K, Format::kQ6K}) {
    all.push_back(quant::RandomMatrix({.format = format, .rows = 21, .cols = 256}, 9));
  }
  all.push_back(
      quant::RandomMatrix({.format = Format::kInt5Affine, .rows = 21, .offsets = true}, 9));
  for (const int32_t group : {16, 64}) {
    all.push_back(quant::RandomMatrix({.format = Format::kLut4, .rows = 21, .group = group}, 9));
  }
  all.push_back(quant::RandomMatrix({.format = Format::kFp8, .rows = 21, .group = 64}, 9));
  all.push_back(quant::RandomMatrix({.format = Format::kBf16, .rows = 21, .group = 0}, 9));
  all.push_back(quant::RandomMatrix({.format = Format::kF32, .rows = 21, .group = 0}, 9));
  return all;
}

std::unique_ptr<PackedMatrix> Pack(const quant::Matrix& matrix,
                                   CpuActivations activations = CpuActivations::kInt8) {
  return PackCpu(matrix, activations).value();
}

std::vector<float> Values(const PackedMatrix& matrix) {
  std::vector<float> values(int64_t{matrix.rows()} * matrix.cols());
  for (int32_t n = 0; n < matrix.rows(); ++n) {
    static_cast<const CpuMatrix&>(matrix).DequantizeRow(n, values.data() + n * matrix.cols());
  }
  return values;
}

TEST(PackedBytesTest, EveryStorageComesBackWithoutACopyAndKeepsItsOwner) {
  for (const quant::Matrix& matrix : Samples()) {
    const auto packed = Pack(matrix);
    const PackedBytes bytes = BytesOf(*packed);
    auto owner = std::make_shared<int>(1);
    auto back = MatrixOf(bytes, owner, nullptr);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_GT(owner.use_count(), 1);
    EXPECT_EQ((*back)->size_bytes(), packed->size_bytes());
    EXPECT_EQ(Values(**back), Values(*packed));
    EXPECT_EQ(BytesOf(**back).header, bytes.header);
    EXPECT_EQ(BytesOf(**back).sections[0].data(), bytes.sections[0].data());
    back->reset();
    EXPECT_EQ(owner.use_count(), 1);
  }
}

TEST(PackedBytesTest, WithoutAnOwnerTheBytesAreCopied) {
  for (const quant::Matrix& matrix : Samples()) {
    WeightMemory memory;
    auto packed = Pack(matrix);
    auto copy = MatrixOf(BytesOf(*packed), nullptr, &memory).value();
    const std::vector<float> values = Values(*packed);
    packed.reset();
    EXPECT_EQ(Values(*copy), values);
  }
}

// What a kernel reads is where the shape says: a header is either refused, or needs sections of the
// very sizes that it would read.
TEST(PackedBytesTest, EveryHeaderNumberIsChecked) {
  const int32_t numbers[] = {std::numeric_limits<int32_t>::min(),
                             -64,
                             -1,
                             0,
                             1,
                             2,
                             3,
                             4,
                             8,
                             15,
                             16,
                             21,
                             32,
                             48,
                             64,
                             96,
                             128,
                             129,
                             1 << 30,
                             (1 << 30) + 1,
                             std::numeric_limits<int32_t>::max()};
  int refused = 0;
  for (const quant::Matrix& matrix : Samples()) {
    const auto packed = Pack(matrix);
    const PackedBytes bytes = BytesOf(*packed);
    for (size_t field = 0; field < 23; ++field) {
      for (const int32_t number : numbers) {
        PackedBytes changed = bytes;
        std::memcpy(changed.header.data() + 4 * field, &number, sizeof(number));
        auto read = MatrixOf(changed, std::make_shared<int>(1), nullptr);
        if (read.ok()) {
          EXPECT_EQ((*read)->size_bytes(), packed->size_bytes());
          (void)Values(**read);  // the sanitizers watch
        } else {
          EXPECT_EQ(read.status().code(), kDataLoss);
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(refused, 2000);
}

TEST(PackedBytesTest, SectionsOfOtherSizesNumbersAndAlignmentsAreRefused) {
  const auto packed = Pack(quant::RandomMatrix({}, 1));
  const PackedBytes bytes = BytesOf(*packed);
  PackedBytes changed = bytes;
  changed.sections[1].remove_suffix(1);
  EXPECT_THAT(std::string(MatrixOf(changed, std::make_shared<int>(1), nullptr).status().message()),
              HasSubstr("the size of section 1 is"));
  changed = bytes;
  changed.sections.pop_back();
  EXPECT_EQ(MatrixOf(changed, std::make_shared<int>(1), nullptr).status().code(), kDataLoss);
  changed = bytes;
  changed.header.push_back('\0');
  EXPECT_EQ(MatrixOf(changed, std::make_shared<int>(1), nullptr).status().code(), kDataLoss);
  std::vector<uint8_t> moved(bytes.sections[0].size() + 128);
  const auto misaligned = 1 + 64 - reinterpret_cast<uintptr_t>(moved.data()) % 64;
  changed = bytes;
  changed.sections[0] = absl::MakeConstSpan(moved).subspan(misaligned, bytes.sections[0].size());
  EXPECT_EQ(MatrixOf(changed, std::make_shared<int>(1), nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// FNV-1a, 64 bits.
uint64_t Digest(absl::Span<const uint8_t> bytes, uint64_t hash) {
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

// `matrix` with the same codes and scales on every machine: no library's distributions.
quant::Matrix Portable(quant::Matrix matrix) {
  std::mt19937 random(3);
  const auto draw = [&] { return static_cast<float>(random() % 1024) / 4096.0f; };
  const bool is_f32 = matrix.format == Format::kF32;
  for (uint8_t& code : matrix.codes) {
    code = is_f32 ? random() & 1 : quant::RandomCode(matrix, random);
  }
  for (uint8_t& sub : matrix.sub_scales) sub = random() % 64;
  for (int i = 0; i < 16; ++i) matrix.table[i] = static_cast<float>(i * i) / 256.0f;
  const bool fold = !matrix.offsets.empty() && matrix.offsets[0] == -8.0f * matrix.scales[0];
  for (float& scale : matrix.scales) scale = draw() + (matrix.group == 64 ? 0x1p-20f : 0.0f);
  for (size_t i = 0; i < matrix.offsets.size(); ++i) {
    matrix.offsets[i] = fold ? -8.0f * matrix.scales[i] : draw();
  }
  return matrix;
}

// Files of packed weights live longer than programs. Whoever changes the layout, the header or what
// is chosen must raise kPackedLayoutVersion, so that no program reads another one's bytes; then
// record the digest that this test prints.
TEST(PackedBytesTest, TheBytesAreThoseOfTheLayoutVersion) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const auto activations : {CpuActivations::kInt8, CpuActivations::kF32}) {
    for (const quant::Matrix& matrix : Samples()) {
      const auto packed = Pack(Portable(matrix), activations);
      const PackedBytes bytes = BytesOf(*packed);
      const auto* header = reinterpret_cast<const uint8_t*>(bytes.header.data());
      hash = Digest(absl::MakeConstSpan(header, bytes.header.size()), hash);
      for (const auto& section : bytes.sections) hash = Digest(section, hash);
    }
  }
  EXPECT_EQ(kPackedLayoutVersion, 4u);
  EXPECT_EQ(hash, 17412338669984613152u)
      << "if the layout changed on purpose, raise kPackedLayoutVersion";
}

}  // namespace
}  // namespace nibble::cpu
