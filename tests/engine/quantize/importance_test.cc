#include "engine/quantize/importance.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstring>
#include <limits>

#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<uint8_t> Floats(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * 4);
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

testing::GgufWriter Gguf(const std::vector<float>& sums, float count) {
  testing::GgufWriter writer;
  writer.String("general.type", "imatrix");
  writer.Add("blk.0.ffn_up.weight.in_sum2", {sums.size(), 1}, GgmlType::kF32, Floats(sums));
  writer.Add("blk.0.ffn_up.weight.counts", {1, 1}, GgmlType::kF32, Floats({count}));
  return writer;
}

template <typename T>
void Append(T value, std::vector<uint8_t>& out) {
  const std::vector<uint8_t> bytes = testing::BytesOf(value);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

std::vector<uint8_t> Dat(const std::string& name, int32_t calls, const std::vector<float>& sums) {
  std::vector<uint8_t> out;
  Append<int32_t>(1, out);
  Append(static_cast<int32_t>(name.size()), out);
  out.insert(out.end(), name.begin(), name.end());
  Append(calls, out);
  Append(static_cast<int32_t>(sums.size()), out);
  for (const float sum : sums) Append(sum, out);
  return out;
}

absl::StatusOr<Importance> ReadBytes(const std::vector<uint8_t>& bytes) {
  return Importance::Read(testing::WriteTempFile("importance", bytes));
}

TEST(Importance, GgufSumsBecomeMeans) {
  const absl::StatusOr<Importance> importance = ReadBytes(Gguf({2, 4, 0}, 4).Build());
  ASSERT_TRUE(importance.ok()) << importance.status();
  EXPECT_THAT(importance->Find("blk.0.ffn_up.weight"), ElementsAre(0.5f, 1.0f, 0.0f));
  EXPECT_TRUE(importance->Find("blk.1.ffn_up.weight").empty());
}

TEST(Importance, TheOlderFormatIsRead) {
  const absl::StatusOr<Importance> importance = ReadBytes(Dat("a.weight", 2, {1, 3}));
  ASSERT_TRUE(importance.ok()) << importance.status();
  EXPECT_THAT(importance->Find("a.weight"), ElementsAre(0.5f, 1.5f));
}

TEST(Importance, WhatIsWrittenIsRead) {
  Importance importance;
  ASSERT_TRUE(importance.Set("blk.0.ffn_up.weight", {1.0f, 4.0f, 0.0f}, 2).ok());
  ASSERT_TRUE(importance.Set("blk.1.ffn_up.weight", {1.0f}, 0).ok());
  const std::string path =
      ::testing::TempDir() + "/nibble_importance_written_" + std::to_string(getpid());
  ASSERT_TRUE(importance.Write(path, 2, 512).ok());
  const absl::StatusOr<Importance> read = Importance::Read(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->size(), 2u);
  EXPECT_THAT(read->Find("blk.0.ffn_up.weight"), ElementsAre(0.5f, 2.0f, 0.0f));
  EXPECT_EQ(GgufFile::Open(path)->GetString("general.type").value(), "imatrix");
}

TEST(Importance, WhatIsBrokenIsRefusedWithItsPath) {
  EXPECT_EQ(Importance::Read("/no/such").status().code(), absl::StatusCode::kNotFound);
  const absl::Status negative = ReadBytes(Gguf({-1, 4}, 4).Build()).status();
  EXPECT_EQ(negative.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(negative.message()), HasSubstr("_importance: "));
  EXPECT_FALSE(ReadBytes(Gguf({std::numeric_limits<float>::quiet_NaN()}, 1).Build()).ok());
  testing::GgufWriter no_count = Gguf({1, 2}, 1);
  no_count.RemoveTensor("blk.0.ffn_up.weight.counts");
  EXPECT_FALSE(ReadBytes(no_count.Build()).ok());
  EXPECT_FALSE(ReadBytes(testing::TinyLlamaGguf(1)).ok()) << "a model, not an importance matrix";
}

// A model with a damaged weight measures such sums; scales chosen by them would be NaN.
TEST(Importance, WhatIsNotFiniteIsRefused) {
  const float huge = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Importance importance;
  for (const float value : {huge, nan, -1.0f}) {
    const absl::Status sum = importance.Set("a.weight", {1, value}, 2);
    EXPECT_EQ(sum.code(), absl::StatusCode::kDataLoss) << value;
    EXPECT_THAT(std::string(sum.message()), HasSubstr("'a.weight'"));
    EXPECT_EQ(importance.Set("a.weight", {1, 1}, value).code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_TRUE(importance.Find("a.weight").empty());
  EXPECT_FALSE(ReadBytes(Gguf({1, 2}, 1e-40f).Build()).ok()) << "the mean is not finite";
}

// A device never ends, and a sparse file takes more memory than disk.
TEST(Importance, WhatHasNoEndIsRefused) {
  EXPECT_EQ(Importance::Read("/dev/zero").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string path = testing::WriteTempFile("importance_sparse", Dat("a.weight", 1, {1}));
  ASSERT_EQ(truncate(path.c_str(), kMaxImportanceBytes + 1), 0);
  const absl::Status status = Importance::Read(path).status();
  unlink(path.c_str());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("_importance_sparse: has 1073741825 bytes"));
}

TEST(Importance, EveryTruncationOfADatFileIsRefused) {
  const std::vector<uint8_t> whole = Dat("a.weight", 2, {1, 3});
  for (size_t n = 1; n < whole.size(); ++n) {
    const std::vector<uint8_t> cut(whole.begin(), whole.begin() + static_cast<int64_t>(n));
    EXPECT_EQ(ReadBytes(cut).status().code(), absl::StatusCode::kDataLoss) << n;
  }
}

}  // namespace
}  // namespace nibble
