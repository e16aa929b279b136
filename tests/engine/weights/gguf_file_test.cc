#include "engine/weights/gguf_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::BytesOf;
using ::testing::ElementsAre;
using testing::GgufWriter;
using ::testing::HasSubstr;

GgufWriter Small() {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  writer.U32("a.u32", 7);
  writer.U64("a.u64", 8);
  writer.F32("a.f32", 0.5f);
  writer.Bool("a.bool", true);
  writer.Strings("a.strings", {"x", "", "yz"});
  writer.Floats("a.floats", {1.0f, -2.0f});
  writer.Ints("a.ints", {3, -4});
  writer.Add("w", {2, 3}, GgmlType::kF32, std::vector<uint8_t>(24, 1));
  writer.Add("v", {3}, GgmlType::kF32, std::vector<uint8_t>(12, 2));
  return writer;
}

class GgufFileValues : public ::testing::Test {
 protected:
  void Parse(const GgufWriter& writer) {
    bytes_ = writer.Build();
    absl::StatusOr<GgufFile> file = GgufFile::Parse(bytes_, "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    file_.emplace(std::move(*file));
  }
  std::vector<uint8_t> bytes_;
  std::optional<GgufFile> file_;
};

TEST_F(GgufFileValues, TensorsKeepTheirOrderShapeAndBytes) {
  Parse(Small());
  ASSERT_EQ(file_->tensors().size(), 2u);
  const GgufTensor* w = file_->Find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_THAT(w->dims, ElementsAre(2, 3));
  EXPECT_EQ(w->num_elements, 6);
  EXPECT_EQ(w->size_bytes, 24);
  const GgufTensor* v = file_->Find("v");
  EXPECT_EQ(v->offset, 32) << "the first tensor's 24 bytes, padded to the alignment";
  EXPECT_EQ(file_->Data(*v).size(), 12u);
  EXPECT_EQ(file_->Data(*v)[0], 2);
  EXPECT_EQ(file_->Data(*w)[23], 1);
  EXPECT_EQ(file_->Find("x"), nullptr);
}

TEST_F(GgufFileValues, EveryIntegerTypeReadsAsAnInt) {
  GgufWriter writer = Small();
  writer.Raw("u8", 0, BytesOf<uint8_t>(200));
  writer.Raw("i8", 1, BytesOf<int8_t>(-3));
  writer.Raw("u16", 2, BytesOf<uint16_t>(65535));
  writer.Raw("i16", 3, BytesOf<int16_t>(-300));
  writer.Raw("i32", 5, BytesOf<int32_t>(-70000));
  writer.Raw("i64", 11, BytesOf<int64_t>(-5'000'000'000));
  writer.U64("big", std::numeric_limits<uint64_t>::max());
  Parse(writer);
  EXPECT_EQ(*file_->GetInt("u8"), 200);
  EXPECT_EQ(*file_->GetInt("i8"), -3);
  EXPECT_EQ(*file_->GetInt("u16"), 65535);
  EXPECT_EQ(*file_->GetInt("i16"), -300);
  EXPECT_EQ(*file_->GetInt("a.u32"), 7);
  EXPECT_EQ(*file_->GetInt("i32"), -70000);
  EXPECT_EQ(*file_->GetInt("a.u64"), 8);
  EXPECT_EQ(*file_->GetInt("i64"), -5'000'000'000);
  EXPECT_EQ(file_->GetInt("big").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GgufFileValues, OtherTypesReadAsThemselves) {
  GgufWriter writer = Small();
  writer.Raw("f64", 12, BytesOf<double>(0.1));
  writer.Raw("u32s", 9, [] {
    std::vector<uint8_t> bytes = BytesOf<int32_t>(4);
    for (const uint8_t b : BytesOf<uint64_t>(1)) bytes.push_back(b);
    for (const uint8_t b : BytesOf<uint32_t>(9)) bytes.push_back(b);
    return bytes;
  }());
  Parse(writer);
  EXPECT_EQ(*file_->GetFloat("a.f32"), 0.5);
  EXPECT_EQ(*file_->GetFloat("f64"), 0.1);
  EXPECT_TRUE(*file_->GetBool("a.bool"));
  EXPECT_EQ(*file_->GetString("general.architecture"), "llama");
  EXPECT_THAT(*file_->GetStrings("a.strings"), ElementsAre("x", "", "yz"));
  EXPECT_THAT(*file_->GetFloats("a.floats"), ElementsAre(1.0f, -2.0f));
  EXPECT_THAT(*file_->GetInts("a.ints"), ElementsAre(3, -4));
  EXPECT_THAT(*file_->GetInts("u32s"), ElementsAre(9));
}

TEST_F(GgufFileValues, AnAbsentKeyIsNotFoundAndAWrongTypeSaysBoth) {
  Parse(Small());
  EXPECT_EQ(file_->GetInt("nope").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file_->GetStrings("nope").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = file_->GetInt("general.architecture").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(),
            "m.gguf: key 'general.architecture' is string \"llama\", needed an integer");
  EXPECT_EQ(file_->GetFloat("a.u32").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file_->GetBool("a.u32").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file_->GetString("a.u32").status().code(), absl::StatusCode::kDataLoss);
}

// The element types of the tokenizer's arrays, unchecked, were an out-of-bounds read elsewhere.
TEST_F(GgufFileValues, ArraysOfAnotherElementTypeAreRefused) {
  Parse(Small());
  EXPECT_THAT(std::string(file_->GetFloats("a.strings").status().message()),
              HasSubstr("is array of string, 3, needed an array of f32"));
  EXPECT_EQ(file_->GetFloats("a.ints").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file_->GetInts("a.floats").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file_->GetStrings("a.ints").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(file_->GetInts("a.u32").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(GgufFileValues, DescribesEveryKindInOneLine) {
  Parse(Small());
  EXPECT_EQ(file_->Describe("a.u32"), "u32 7");
  EXPECT_EQ(file_->Describe("a.f32"), "f32 0.5");
  EXPECT_EQ(file_->Describe("a.bool"), "bool true");
  EXPECT_EQ(file_->Describe("general.architecture"), "string \"llama\"");
  EXPECT_EQ(file_->Describe("a.strings"), "array of string, 3");
  EXPECT_EQ(file_->Describe("nope"), "absent");
  EXPECT_THAT(file_->Keys(), ElementsAre("general.architecture", "a.u32", "a.u64", "a.f32",
                                         "a.bool", "a.strings", "a.floats", "a.ints"));
}

TEST_F(GgufFileValues, VersionTwoAndOtherAlignmentsAreRead) {
  GgufWriter writer = Small();
  writer.version = 2;
  writer.alignment = 64;
  writer.U32("general.alignment", 64);
  Parse(writer);
  EXPECT_EQ(file_->version(), 2u);
  EXPECT_EQ(file_->Find("v")->offset, 64);
  EXPECT_EQ(file_->Data(*file_->Find("v"))[0], 2);
}

TEST_F(GgufFileValues, AFileMayHaveNoTensors) {
  GgufWriter writer = Small();
  writer.tensors.clear();
  Parse(writer);
  EXPECT_TRUE(file_->tensors().empty());
}

TEST(GgufFileOpen, MapsAFileAndOutlivesItsName) {
  const std::string path = testing::WriteTempFile("open.gguf", Small().Build());
  absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(unlink(path.c_str()), 0);
  GgufFile moved = std::move(*file);
  EXPECT_EQ(moved.name(), path);
  EXPECT_EQ(moved.size_bytes(), static_cast<int64_t>(Small().Build().size()));
  EXPECT_EQ(moved.Data(*moved.Find("v"))[11], 2);
}

TEST(GgufFileOpen, WhatIsNotAFileIsNamed) {
  const std::string dir = ::testing::TempDir();
  EXPECT_EQ(GgufFile::Open(dir + "/does/not/exist").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(GgufFile::Open(dir).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(GgufFile::Open(dir).status().message()), HasSubstr("is a directory"));
  EXPECT_EQ(GgufFile::Open("/dev/null").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string empty = testing::WriteTempFile("empty.gguf", {});
  EXPECT_EQ(GgufFile::Open(empty).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(GgufFile::Open(empty).status().message()), HasSubstr("is empty"));
}

TEST(GgufFileOpen, ANamedPipeIsRefusedAndNotWaitedFor) {
  const std::string path = ::testing::TempDir() + "/nibble_pipe.gguf";
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(GgufFile::Open(path).status().code(), absl::StatusCode::kInvalidArgument);
  unlink(path.c_str());
}

}  // namespace
}  // namespace nibble
