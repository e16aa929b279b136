// One hand-made file for every check of the reader: each is valid but for one thing, and the error
// names it.
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/gguf_metadata.h"
#include "engine/weights/gguf_tensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::BytesOf;
using testing::BytesOfString;
using testing::GgufWriter;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

GgufWriter Valid() {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.Add("first", {32, 2}, GgmlType::kQ8_0, std::vector<uint8_t>(68));
  writer.Add("second", {4}, GgmlType::kF32, std::vector<uint8_t>(16));
  return writer;
}

void ExpectRefused(absl::Span<const uint8_t> bytes, absl::StatusCode code, absl::string_view part) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  const absl::Status status = GgufFile::Parse(exact, "m.gguf").status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
  EXPECT_THAT(std::string(status.message()), StartsWith("m.gguf: "));
}

void ExpectRefused(const GgufWriter& writer, absl::StatusCode code, absl::string_view part) {
  ExpectRefused(writer.Build(), code, part);
}

std::vector<uint8_t> Joined(std::vector<std::vector<uint8_t>> parts) {
  std::vector<uint8_t> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

TEST(GgufHostile, TheFileTheOthersSpoilIsValid) {
  const std::vector<uint8_t> bytes = Valid().Build();
  EXPECT_TRUE(GgufFile::Parse(bytes, "m.gguf").ok());
}

TEST(GgufHostile, HeadersOfOtherFilesAndVersions) {
  GgufWriter writer = Valid();
  writer.magic = "PK\x03\x04";
  ExpectRefused(writer, kDataLoss, "starts with \"PK\\x03\\x04\", needed \"GGUF\"");
  writer.magic = "GGUF";
  writer.version = 1;
  ExpectRefused(writer, kUnimplemented, "is GGUF version 1, needed 2 or 3");
  writer.version = 4;
  ExpectRefused(writer, kUnimplemented, "is GGUF version 4");
  writer.version = 0;
  ExpectRefused(writer, kUnimplemented, "is GGUF version 0");
  writer.version = 0x03000000;
  ExpectRefused(writer, kUnimplemented, "big-endian");
}

TEST(GgufHostile, CountsBeyondTheFile) {
  for (const uint64_t count :
       {uint64_t{3}, kMaxGgufKeys, kMaxGgufKeys + 1, uint64_t{1} << 60, kHuge}) {
    GgufWriter keys = Valid();
    keys.num_keys = count;
    ExpectRefused(keys, kDataLoss, "key");
  }
  for (const uint64_t count : {kMaxGgufTensors, kMaxGgufTensors + 1, uint64_t{1} << 61, kHuge}) {
    GgufWriter tensors = Valid();
    tensors.tensors.clear();
    tensors.num_tensors = count;
    ExpectRefused(tensors, kDataLoss, "tensor");
  }
}

TEST(GgufHostile, KeysThatAreNotNames) {
  for (const absl::string_view key : {absl::string_view(""), absl::string_view("a\0b", 3),
                                      absl::string_view("\xFF"), absl::string_view("a\nb")}) {
    GgufWriter writer = Valid();
    writer.U32(key, 1);
    ExpectRefused(writer, kDataLoss, "printable ASCII");
  }
  GgufWriter writer = Valid();
  writer.U32(std::string(kMaxGgufKeyBytes, 'k'), 1);
  EXPECT_TRUE(GgufFile::Parse(writer.Build(), "m").status().ok());
  writer.U32(std::string(kMaxGgufKeyBytes + 1, 'k'), 1);
  ExpectRefused(writer, kDataLoss, "printable ASCII");
}

TEST(GgufHostile, AKeyThatAppearsTwice) {
  GgufWriter writer = Valid();
  writer.entries.push_back(writer.entries[0]);
  ExpectRefused(writer, kDataLoss, "metadata key 'general.architecture' appears twice");
}

TEST(GgufHostile, ValueTypesThatDoNotExist) {
  for (const int32_t type :
       {-1, 13, 255, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    GgufWriter writer = Valid();
    writer.Raw("k", type, std::vector<uint8_t>(8));
    ExpectRefused(writer, kDataLoss, absl::StrCat("has value type ", type));
    writer.Raw("k", 9, Joined({BytesOf(type), BytesOf<uint64_t>(0)}));
    ExpectRefused(writer, kDataLoss, absl::StrCat("has value type ", type));
  }
}

TEST(GgufHostile, StringsLongerThanTheFile) {
  for (const uint64_t length : {uint64_t{1000}, uint64_t{1} << 31, uint64_t{1} << 32,
                                (uint64_t{1} << 63) - 1, uint64_t{1} << 63, kHuge - 7, kHuge}) {
    GgufWriter writer = Valid();
    writer.Raw("k", 8, BytesOf(length));
    ExpectRefused(writer, kDataLoss, absl::StrCat("claims ", length, " bytes"));
  }
}

TEST(GgufHostile, ArraysLongerThanTheFile) {
  for (const int32_t element : {0, 2, 4, 6, 7, 8, 10, 12}) {
    for (const uint64_t count : {uint64_t{500}, uint64_t{1} << 30, (uint64_t{1} << 30) + 1,
                                 uint64_t{1} << 61, uint64_t{1} << 62, kHuge / 8 + 1, kHuge}) {
      GgufWriter writer = Valid();
      writer.Raw("k", 9, Joined({BytesOf(element), BytesOf(count)}));
      ExpectRefused(writer, kDataLoss, "the array of key 'k'");
    }
  }
}

TEST(GgufHostile, AnArrayOfStringsThatEndsInsideOne) {
  GgufWriter writer = Valid();
  writer.Raw(
      "k", 9,
      Joined({BytesOf<int32_t>(8), BytesOf<uint64_t>(2), BytesOfString("ok"), BytesOf(kHuge)}));
  ExpectRefused(writer, kDataLoss, "the array of key 'k'");
}

TEST(GgufHostile, ArraysInArraysAreRefusedAtAnyDepth) {
  GgufWriter writer = Valid();
  std::vector<uint8_t> nested;
  for (int depth = 0; depth < 10000; ++depth)
    nested = Joined({BytesOf<int32_t>(9), BytesOf<uint64_t>(1), std::move(nested)});
  writer.Raw("k", 9, nested);
  ExpectRefused(writer, kUnimplemented, "array of arrays");
}

TEST(GgufHostile, BoolsOtherThanZeroAndOne) {
  GgufWriter writer = Valid();
  writer.Raw("k", 7, {2});
  ExpectRefused(writer, kDataLoss, "holds a bool of 2");
  writer.Raw("k", 9, Joined({BytesOf<int32_t>(7), BytesOf<uint64_t>(3), {0, 1, 255}}));
  ExpectRefused(writer, kDataLoss, "holds a bool of 255");
}

TEST(GgufHostile, AlignmentsThatAreNoneOrOfAnotherType) {
  for (const uint32_t alignment : {0u, 1u, 4u, 12u, 33u, 0x80000001u, 0xFFFFFFFFu}) {
    GgufWriter writer = Valid();
    writer.U32("general.alignment", alignment);
    ExpectRefused(writer, kDataLoss, "needed u32 and a power of two of 8 or more");
  }
  GgufWriter writer = Valid();
  writer.U64("general.alignment", 32);
  ExpectRefused(writer, kDataLoss, "needed u32");
  writer.U32("general.alignment",
             0x80000000u);  // a power of two: the data would start 2 GiB into a small file
  ExpectRefused(writer, kDataLoss, "tensor 'first' needs 68 bytes");
}

TEST(GgufHostile, TensorNamesThatAreNot) {
  GgufWriter writer = Valid();
  writer.tensors[0].name = "";
  ExpectRefused(writer, kDataLoss, "printable ASCII");
  writer.tensors[0].name = std::string(64, 'n');
  ExpectRefused(writer, kDataLoss, "1 to 63");
  writer.tensors[0].name = "caf\xC3\xA9";
  ExpectRefused(writer, kDataLoss, "printable ASCII");
  writer.tensors[0].name = "second";
  ExpectRefused(writer, kDataLoss, "tensor 'second' appears twice");
}

TEST(GgufHostile, DimensionsThatAreNoneTooManyOrTooLarge) {
  const auto with_dims = [](std::vector<uint64_t> dims) {
    GgufWriter writer = Valid();
    writer.tensors[0].dims = std::move(dims);
    return writer;
  };
  ExpectRefused(with_dims({}), kDataLoss, "has 0 dimensions");
  ExpectRefused(with_dims({32, 1, 1, 1, 1}), kDataLoss, "has 5 dimensions");
  ExpectRefused(with_dims({0, 2}), kDataLoss, "dimension 0 of 0");
  ExpectRefused(with_dims({32, 0}), kDataLoss, "dimension 1 of 0");
  ExpectRefused(with_dims({kHuge}), kDataLoss, "fewer than 2^63");
  ExpectRefused(with_dims({uint64_t{1} << 63, 2}), kDataLoss, "fewer than 2^63");
  // Products that wrap to something small.
  ExpectRefused(with_dims({uint64_t{1} << 32, uint64_t{1} << 32}), kDataLoss, "fewer than 2^63");
  ExpectRefused(with_dims({uint64_t{1} << 31, uint64_t{1} << 31, 2, 32}), kDataLoss,
                "fewer than 2^63");
  ExpectRefused(with_dims({32, 1, uint64_t{1} << 60, 1}), kDataLoss, "fewer than 2^63");
}

TEST(GgufHostile, BytesThatWouldOverflow) {
  GgufWriter writer = Valid();
  writer.tensors[0].type = static_cast<int32_t>(GgmlType::kF32);
  writer.tensors[0].dims = {uint64_t{1} << 62};  // the elements fit 63 bits, four bytes each do not
  ExpectRefused(writer, kDataLoss, "more than 2^63 bytes");
  writer.tensors[0].dims = {uint64_t{1} << 60};  // these do: an exabyte, declared in a small file
  ExpectRefused(writer, kDataLoss, "is the file truncated?");
}

TEST(GgufHostile, TypesThatDoNotExist) {
  for (const int32_t type : {-1, 4, 5, 31, 36, 43, 1000, std::numeric_limits<int32_t>::min()}) {
    GgufWriter writer = Valid();
    writer.tensors[0].type = type;
    ExpectRefused(writer, kUnimplemented, absl::StrCat("tensor 'first' has type ", type));
  }
}

TEST(GgufHostile, RowsThatAreNotWholeBlocks) {
  GgufWriter writer = Valid();
  writer.tensors[0].dims = {33, 2};
  ExpectRefused(writer, kDataLoss, "has rows of 33 elements, Q8_0 needs a multiple of 32");
  writer.tensors[0].type = static_cast<int32_t>(GgmlType::kQ4_K);
  writer.tensors[0].dims = {32, 8};
  ExpectRefused(writer, kDataLoss, "Q4_K needs a multiple of 256");
}

TEST(GgufHostile, OffsetsThatLeaveGapsOverlapOrWrap) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{32}, uint64_t{95}, uint64_t{97},
                                uint64_t{128}, uint64_t{1} << 40, (uint64_t{1} << 63) - 1}) {
    GgufWriter writer = Valid();
    writer.tensors[1].offset = offset;  // the truth is 96
    ExpectRefused(writer, kDataLoss,
                  absl::StrCat("tensor 'second' is at offset ", offset, ", needed 96"));
  }
  GgufWriter writer = Valid();
  writer.tensors[1].offset = kHuge - 31;
  ExpectRefused(writer, kDataLoss, "needed less than 2^63");
}

TEST(GgufHostile, DataThatEndsEarly) {
  const std::vector<uint8_t> whole = Valid().Build();
  for (size_t cut = 1; cut <= 16 + 28 + 68; ++cut) {
    ExpectRefused(absl::MakeConstSpan(whole).first(whole.size() - cut), kDataLoss,
                  "is the file truncated?");
  }
}

TEST(GgufHostile, TheHeaderCutAtEveryByte) {
  GgufWriter writer = Valid();
  writer.Strings("strings", {"a", "bb", ""});
  writer.Floats("floats", {1, 2});
  writer.Bool("bool", true);
  const std::vector<uint8_t> whole = writer.Build();
  for (size_t size = 0; size < whole.size(); ++size) {
    ExpectRefused(absl::MakeConstSpan(whole).first(size), kDataLoss, "truncated?");
  }
}

}  // namespace
}  // namespace nibble
