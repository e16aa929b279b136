#include "engine/weights/ggml_types.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

constexpr GgmlType kReadable[] = {
    GgmlType::kF32,    GgmlType::kF16,    GgmlType::kBF16,  GgmlType::kQ4_0, GgmlType::kQ4_1,
    GgmlType::kQ5_0,   GgmlType::kQ5_1,   GgmlType::kQ8_0,  GgmlType::kQ4_K, GgmlType::kQ5_K,
    GgmlType::kQ6_K,   GgmlType::kIQ4_NL, GgmlType::kMXFP4, GgmlType::kQ2_K, GgmlType::kQ3_K,
    GgmlType::kIQ4_XS, GgmlType::kNVFP4};

void PutF16(std::vector<uint8_t>& block, size_t at, float value) {
  const uint16_t half = F32ToF16(value);
  std::memcpy(block.data() + at, &half, sizeof(half));
}

std::vector<float> Dequantized(GgmlType type, const std::vector<uint8_t>& bytes) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  std::vector<float> out(bytes.size() / info.block_bytes * info.block_elements);
  DequantizeBlocks(type, bytes, static_cast<int64_t>(out.size()), out.data());
  return out;
}

// FNV-1a over the bits, zeros taken as +0: what tests/oracle/dequantize.py prints.
uint64_t HashOf(const std::vector<float>& values) {
  uint64_t hash = 0xCBF29CE484222325;
  for (float value : values) {
    value += 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    for (int i = 0; i < 4; ++i) hash = (hash ^ (bits >> (8 * i) & 255)) * 0x100000001B3;
  }
  return hash;
}

TEST(GgmlTypes, TypeInfoIsTotal) {
  EXPECT_EQ(TypeInfo(3).name, "Q4_1");
  EXPECT_EQ(TypeInfo(14).block_bytes, 210);
  EXPECT_FALSE(TypeInfo(16).readable);
  EXPECT_EQ(TypeInfo(16).name, "IQ2_XXS");
  for (const int32_t removed :
       {4, 5, 31, 32, 33, 36, 37, 38, 43, 99, -1, std::numeric_limits<int32_t>::min(),
        std::numeric_limits<int32_t>::max()}) {
    EXPECT_EQ(TypeInfo(removed).block_bytes, 0);
    EXPECT_EQ(TypeInfo(removed).name, "type " + std::to_string(removed));
    EXPECT_FALSE(TypeInfo(removed).readable);
  }
}

TEST(GgmlTypes, PlainTypesKeepTheirValues) {
  std::vector<uint8_t> bytes(8);
  const float values[] = {-1.5f, std::numeric_limits<float>::denorm_min()};
  std::memcpy(bytes.data(), values, 8);
  EXPECT_THAT(Dequantized(GgmlType::kF32, bytes), ::testing::ElementsAre(values[0], values[1]));
  EXPECT_THAT(Dequantized(GgmlType::kF16, {0x00, 0xC0, 0x01, 0x00}),
              ::testing::ElementsAre(-2.0f, 0x1p-24f));
  EXPECT_THAT(Dequantized(GgmlType::kBF16, {0xC0, 0xBF, 0x80, 0x7E}),
              ::testing::ElementsAre(-1.5f, 0x1p126f));
}

TEST(GgmlTypes, Q4_0CentersCodesOnEight) {
  std::vector<uint8_t> block(18);
  PutF16(block, 0, 0.5f);
  for (int j = 0; j < 16; ++j) block[2 + j] = static_cast<uint8_t>(j | (15 - j) << 4);
  const std::vector<float> out = Dequantized(GgmlType::kQ4_0, block);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(out[j], 0.5f * static_cast<float>(j - 8));
    EXPECT_EQ(out[j + 16], 0.5f * static_cast<float>(7 - j));
  }
}

TEST(GgmlTypes, Q4_1AddsItsMinimum) {
  std::vector<uint8_t> block(20);
  PutF16(block, 0, 0.25f);
  PutF16(block, 2, -3.0f);
  for (int j = 0; j < 16; ++j) block[4 + j] = static_cast<uint8_t>(j | (15 - j) << 4);
  const std::vector<float> out = Dequantized(GgmlType::kQ4_1, block);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(out[j], 0.25f * static_cast<float>(j) - 3.0f);
    EXPECT_EQ(out[j + 16], 0.25f * static_cast<float>(15 - j) - 3.0f);
  }
}

TEST(GgmlTypes, Q5TakesBitJOfItsFifthBitsForElementJ) {
  for (int high = 0; high < 32; ++high) {
    std::vector<uint8_t> zero(22), one(24);
    PutF16(zero, 0, 1.0f);
    PutF16(one, 0, 1.0f);
    PutF16(one, 2, 0.5f);
    const uint32_t bits = 1u << high;
    std::memcpy(zero.data() + 2, &bits, 4);
    std::memcpy(one.data() + 4, &bits, 4);
    zero[6] = 0x21;  // elements 0 and 16 hold 1 and 2
    one[8] = 0x21;
    const std::vector<float> q5_0 = Dequantized(GgmlType::kQ5_0, zero);
    const std::vector<float> q5_1 = Dequantized(GgmlType::kQ5_1, one);
    for (int j = 0; j < 32; ++j) {
      const float low = j == 0 ? 1.0f : j == 16 ? 2.0f : 0.0f;
      const float code = low + (j == high ? 16.0f : 0.0f);
      EXPECT_EQ(q5_0[j], code - 16.0f) << j;
      EXPECT_EQ(q5_1[j], code + 0.5f) << j;
    }
  }
}

TEST(GgmlTypes, Q8_0CodesAreSigned) {
  std::vector<uint8_t> block(34);
  PutF16(block, 0, 2.0f);
  for (int j = 0; j < 32; ++j) block[2 + j] = static_cast<uint8_t>(j * 8 + 4);
  const std::vector<float> out = Dequantized(GgmlType::kQ8_0, block);
  for (int j = 0; j < 32; ++j)
    EXPECT_EQ(out[j], 2.0f * static_cast<float>(j < 16 ? j * 8 + 4 : j * 8 + 4 - 256));
}

// Packs eight scales and mins as Q4_K and Q5_K do, written from the packing's side.
void PackSixBits(const int (&scales)[8], const int (&mins)[8], uint8_t* packed) {
  for (int j = 0; j < 4; ++j) {
    packed[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
    packed[j + 4] = static_cast<uint8_t>(mins[j] | (mins[j + 4] >> 4) << 6);
    packed[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
  }
}

constexpr int kScales[8] = {0, 63, 1, 32, 17, 48, 63, 5};
constexpr int kMins[8] = {63, 0, 33, 2, 16, 47, 9, 62};

TEST(GgmlTypes, SixBitPairsUnpackAsTheyWerePacked) {
  uint8_t packed[12];
  PackSixBits(kScales, kMins, packed);
  for (int j = 0; j < 8; ++j) {
    EXPECT_EQ(UnpackSixBitPair(packed, j).scale, kScales[j]) << j;
    EXPECT_EQ(UnpackSixBitPair(packed, j).min, kMins[j]) << j;
  }
}

TEST(GgmlTypes, Q4_KSharesBytesBetweenNeighbouringSubBlocks) {
  std::vector<uint8_t> block(144);
  PutF16(block, 0, 0.5f);
  PutF16(block, 2, 0.25f);
  PackSixBits(kScales, kMins, block.data() + 4);
  const auto code = [](int n) { return (n * 7 + n / 32) % 16; };
  for (int n = 0; n < 256; ++n)
    block[16 + n / 64 * 32 + n % 32] |= static_cast<uint8_t>(code(n) << (n % 64 < 32 ? 0 : 4));
  const std::vector<float> out = Dequantized(GgmlType::kQ4_K, block);
  for (int n = 0; n < 256; ++n) {
    const int sub = n / 32;
    EXPECT_EQ(out[n], 0.5f * static_cast<float>(kScales[sub] * code(n)) -
                          0.25f * static_cast<float>(kMins[sub]))
        << n;
  }
}

TEST(GgmlTypes, Q5_KTakesBitSubOfItsFifthBits) {
  std::vector<uint8_t> block(176);
  PutF16(block, 0, 0.5f);
  PutF16(block, 2, 0.25f);
  PackSixBits(kScales, kMins, block.data() + 4);
  const auto code = [](int n) { return (n * 11 + n / 32) % 32; };
  for (int n = 0; n < 256; ++n) {
    block[48 + n / 64 * 32 + n % 32] |=
        static_cast<uint8_t>((code(n) & 15) << (n % 64 < 32 ? 0 : 4));
    block[16 + n % 32] |= static_cast<uint8_t>((code(n) >> 4) << (n / 32));
  }
  const std::vector<float> out = Dequantized(GgmlType::kQ5_K, block);
  for (int n = 0; n < 256; ++n) {
    const int sub = n / 32;
    EXPECT_EQ(out[n], 0.5f * static_cast<float>(kScales[sub] * code(n)) -
                          0.25f * static_cast<float>(kMins[sub]))
        << n;
  }
}

TEST(GgmlTypes, Q6_KSpreadsFourRowsOverTwoLowAndOneHighArray) {
  std::vector<uint8_t> block(210);
  PutF16(block, 208, 0.5f);
  const auto code = [](int n) { return (n * 13 + n / 64) % 64; };
  const auto scale = [](int n) { return (n / 16) * 17 - 128; };  // -128 to 127
  for (int g = 0; g < 16; ++g) block[192 + g] = static_cast<uint8_t>(scale(g * 16));
  for (int n = 0; n < 256; ++n) {
    const int half = n / 128, in_half = n % 128;
    block[half * 64 + in_half % 64] |=
        static_cast<uint8_t>((code(n) & 15) << (in_half < 64 ? 0 : 4));
    block[128 + half * 32 + n % 32] |= static_cast<uint8_t>((code(n) >> 4) << (2 * (in_half / 32)));
  }
  const std::vector<float> out = Dequantized(GgmlType::kQ6_K, block);
  for (int n = 0; n < 256; ++n)
    EXPECT_EQ(out[n], 0.5f * static_cast<float>(scale(n) * (code(n) - 32))) << n;
}

TEST(GgmlTypes, FourBitTablesAreReadThroughTheirValues) {
  std::vector<uint8_t> nl(18), mx(17);
  PutF16(nl, 0, 0.5f);
  mx[0] = 129;  // e8m0 for 4, half of which is 2
  for (int j = 0; j < 16; ++j) {
    nl[2 + j] = static_cast<uint8_t>(j | (15 - j) << 4);
    mx[1 + j] = static_cast<uint8_t>(j | (15 - j) << 4);
  }
  const std::vector<float> nl_out = Dequantized(GgmlType::kIQ4_NL, nl);
  EXPECT_EQ(nl_out[0], -63.5f);
  EXPECT_EQ(nl_out[15], 56.5f);
  EXPECT_EQ(nl_out[16], 56.5f);
  EXPECT_EQ(nl_out[31], -63.5f);
  const std::vector<float> mx_out = Dequantized(GgmlType::kMXFP4, mx);
  EXPECT_EQ(mx_out[1], 2.0f);  // e2m1 0.5 times 4
  EXPECT_EQ(mx_out[7], 24.0f);
  EXPECT_EQ(mx_out[16], -24.0f);
  EXPECT_EQ(mx_out[30], 2.0f);
}

TEST(GgmlTypes, Q2_KHasAScaleAndAMinForSixteen) {
  std::vector<uint8_t> block(84);
  PutF16(block, 80, 0.5f);
  PutF16(block, 82, 0.25f);
  const auto code = [](int n) { return (n * 5 + n / 64) % 4; };
  for (int g = 0; g < 16; ++g) block[g] = static_cast<uint8_t>(g | (15 - g) << 4);
  for (int n = 0; n < 256; ++n) {
    block[16 + n / 128 * 32 + n % 32] |= static_cast<uint8_t>(code(n) << (2 * (n % 128 / 32)));
  }
  const std::vector<float> out = Dequantized(GgmlType::kQ2_K, block);
  for (int n = 0; n < 256; ++n) {
    const int g = n / 16;
    EXPECT_EQ(out[n], 0.5f * static_cast<float>(g * code(n)) - 0.25f * static_cast<float>(15 - g))
        << n;
  }
}

TEST(GgmlTypes, Q3_KTakesItsThirdBitsFromOneMaskForTheWholeBlock) {
  std::vector<uint8_t> block(110);
  PutF16(block, 108, 0.5f);
  const auto code = [](int n) { return (n * 5 + n / 32) % 8; };  // stands for code - 4
  const auto scale = [](int j) { return (j * 13 + 3) % 64; };    // stands for scale - 32
  for (int j = 0; j < 16; ++j) {
    block[96 + j % 8] |= static_cast<uint8_t>((scale(j) & 15) << (j < 8 ? 0 : 4));
    block[104 + j % 4] |= static_cast<uint8_t>((scale(j) >> 4) << (2 * (j / 4)));
  }
  for (int n = 0; n < 256; ++n) {
    block[32 + n / 128 * 32 + n % 32] |=
        static_cast<uint8_t>((code(n) & 3) << (2 * (n % 128 / 32)));
    block[n % 32] |= static_cast<uint8_t>((code(n) >> 2) << (n / 32));
  }
  const std::vector<float> out = Dequantized(GgmlType::kQ3_K, block);
  for (int n = 0; n < 256; ++n) {
    EXPECT_EQ(out[n], 0.5f * static_cast<float>((scale(n / 16) - 32) * (code(n) - 4))) << n;
  }
}

TEST(GgmlTypes, Iq4XsSpreadsItsSixBitScalesOverTwoFields) {
  std::vector<uint8_t> block(136);
  PutF16(block, 0, 0.5f);
  const auto scale = [](int j) { return (j * 9 + 1) % 64; };
  uint16_t high = 0;
  for (int j = 0; j < 8; ++j) {
    block[4 + j / 2] |= static_cast<uint8_t>((scale(j) & 15) << (4 * (j % 2)));
    high = static_cast<uint16_t>(high | (scale(j) >> 4) << (2 * j));
  }
  std::memcpy(block.data() + 2, &high, 2);
  for (int j = 0; j < 128; ++j) block[8 + j] = 0xF0;  // element 0 is -127, element 16 is 113
  const std::vector<float> out = Dequantized(GgmlType::kIQ4_XS, block);
  for (int n = 0; n < 256; ++n) {
    const float value = n % 32 < 16 ? -127.0f : 113.0f;
    EXPECT_EQ(out[n], 0.5f * static_cast<float>(scale(n / 32) - 32) * value) << n;
  }
}

TEST(GgmlTypes, Nvfp4PairsElementsEightApartAndReadsItsNanAsZero) {
  std::vector<uint8_t> block(36);
  const uint8_t scales[4] = {0x38, 0x40, 0x7F, 0x01};  // 1, 2, NaN, 2^-9
  std::memcpy(block.data(), scales, 4);
  for (int i = 0; i < 32; ++i) block[4 + i] = 0xE2;  // element 0 is 2 / 2, element 8 is -8 / 2
  const std::vector<float> out = Dequantized(GgmlType::kNVFP4, block);
  const float expected[4] = {1.0f, 2.0f, 0.0f, 0x1p-9f};
  for (int n = 0; n < 64; ++n) {
    EXPECT_EQ(out[n], expected[n / 16] * (n % 16 < 8 ? 1.0f : -4.0f)) << n;
  }
}

// The same random blocks through gguf-py's numpy code, an independent implementation: see
// tests/oracle/dequantize.py.
TEST(GgmlTypes, RandomBlocksGiveTheOraclesBits) {
  constexpr uint64_t kOracle[] = {0x690A317091903552, 0x08D541143A45915D, 0x0AF464E73FE2AF65,
                                  0xADE48523DA182B4B, 0x1DA5D83B9ED6DEB6, 0xE90B370CA55E2ABB,
                                  0xABC7FBE13F53A855, 0xBD1F201854E774D5, 0xFF5EF44DF5DC384A,
                                  0x0B2FCD04318EF0B2, 0x760DC49F8B86236A, 0x6A6CB05E46BE3756,
                                  0x570EA7E69033C41C, 0xDAD3DC483A54A3C9, 0x85BECDB9A1440BFB,
                                  0x69205E494FAFCF9C, 0x88B655C09A35C717};
  static_assert(std::size(kOracle) == std::size(kReadable));
  for (size_t i = 0; i < std::size(kReadable); ++i) {
    const std::vector<uint8_t> bytes = testing::RandomBlocks(kReadable[i], 4096, 7, 0.75f);
    EXPECT_EQ(HashOf(Dequantized(kReadable[i], bytes)), kOracle[i])
        << TypeInfo(static_cast<int32_t>(kReadable[i])).name;
  }
  if (const char* path = std::getenv("NIBBLE_WRITE_ORACLE_INPUT"); path != nullptr) {
    testing::GgufWriter writer;
    writer.String("general.architecture", "blocks");
    for (const GgmlType type : kReadable) {
      writer.Add(TypeInfo(static_cast<int32_t>(type)).name, {4096}, type,
                 testing::RandomBlocks(type, 4096, 7, 0.75f));
    }
    const std::vector<uint8_t> file = writer.Build();
    std::FILE* out = std::fopen(path, "wb");
    ASSERT_NE(out, nullptr);
    std::fwrite(file.data(), 1, file.size(), out);
    std::fclose(out);
  }
}

TEST(GgmlTypes, ScalesThatAreNotFiniteAreFoundInEveryType) {
  for (const GgmlType type : kReadable) {
    const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
    std::vector<uint8_t> good = testing::RandomBlocks(type, info.block_elements * 3, 5, 1.0f);
    EXPECT_TRUE(CheckFinite(type, good).ok()) << info.name;
    std::vector<size_t> fields = {0};
    if (type == GgmlType::kQ6_K) fields = {208};
    if (type == GgmlType::kQ2_K) fields = {80, 82};
    if (type == GgmlType::kQ3_K) fields = {108};
    if (type == GgmlType::kNVFP4) fields = {};  // eight bits a scale: Canonical, Nvfp4Scales...
    if (type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1 || type == GgmlType::kQ4_K ||
        type == GgmlType::kQ5_K) {
      fields = {0, 2};
    }
    for (const size_t field : fields) {
      for (const float bad :
           {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        if (type == GgmlType::kMXFP4) continue;  // an exponent: Canonical, Mxfp4Exponents...
        std::vector<uint8_t> bytes = good;
        const size_t at = static_cast<size_t>(info.block_bytes) + field;  // in block 1
        const uint16_t narrow = type == GgmlType::kBF16 ? F32ToBf16(bad) : F32ToF16(bad);
        if (type == GgmlType::kF32) std::memcpy(bytes.data() + at, &bad, 4);
        if (type != GgmlType::kF32) std::memcpy(bytes.data() + at, &narrow, 2);
        const absl::Status status = CheckFinite(type, bytes);
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << info.name << " field " << field;
        EXPECT_THAT(std::string(status.message()), HasSubstr(" 1 "));
      }
    }
  }
}

}  // namespace
}  // namespace nibble
