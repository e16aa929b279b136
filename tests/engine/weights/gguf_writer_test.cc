#include "engine/weights/gguf_writer.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

std::string FreshPath(const std::string& name) {
  std::string path =
      ::testing::TempDir() + "/nibble_writer_" + std::to_string(getpid()) + "_" + name;
  unlink(path.c_str());
  return path;
}

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

std::vector<GgufTensorPlan> Plan() {
  return {{"a", {64, 3}, GgmlType::kQ4_0}, {"b", {5}, GgmlType::kF32}};
}

GgufKeys SomeKeys() {
  GgufKeys keys;
  keys.SetString("general.architecture", "llama");
  keys.SetU32("count", 7);
  keys.SetFloats("errors", std::vector<float>{0, 0});
  return keys;
}

TEST(GgufFileWriter, WhatIsWrittenIsRead) {
  const std::string path = FreshPath("read.gguf");
  absl::StatusOr<GgufFileWriter> writer = GgufFileWriter::Create(path, SomeKeys(), Plan());
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<uint8_t> a = testing::RandomBlocks(GgmlType::kQ4_0, 192, 1, 1.0f);
  const std::vector<uint8_t> b = testing::RandomBlocks(GgmlType::kF32, 5, 2, 1.0f);
  ASSERT_TRUE(writer->Write(1, 0, b).ok());  // any order, any pieces
  ASSERT_TRUE(writer->Write(0, 36, absl::MakeConstSpan(a).subspan(36)).ok());
  ASSERT_TRUE(writer->Write(0, 0, absl::MakeConstSpan(a).subspan(0, 36)).ok());
  EXPECT_FALSE(Exists(path)) << "not before it is whole";
  GgufKeys keys = SomeKeys();
  keys.SetFloats("errors", std::vector<float>{0.5f, 0.25f});
  ASSERT_TRUE(writer->Finish(keys).ok());
  EXPECT_FALSE(Exists(path + ".partial"));

  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->size_bytes(), writer->size_bytes());
  EXPECT_THAT(file->Keys(), ElementsAre("general.architecture", "count", "errors"));
  EXPECT_EQ(file->GetInt("count").value(), 7);
  EXPECT_THAT(file->GetFloats("errors").value(), ElementsAre(0.5f, 0.25f));
  ASSERT_EQ(file->tensors().size(), 2u);
  const absl::Span<const uint8_t> read = file->Data(*file->Find("a"));
  EXPECT_EQ(std::vector<uint8_t>(read.begin(), read.end()), a);
  EXPECT_EQ(file->Find("b")->offset % 32, 0);
}

TEST(GgufFileWriter, OneThatIsNotFinishedLeavesNothing) {
  const std::string path = FreshPath("dropped.gguf");
  {
    const absl::StatusOr<GgufFileWriter> writer = GgufFileWriter::Create(path, SomeKeys(), Plan());
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(Exists(path + ".partial"));
  }
  EXPECT_FALSE(Exists(path));
  EXPECT_FALSE(Exists(path + ".partial"));
}

TEST(GgufFileWriter, APathIsWrittenByOneAtATime) {
  const std::string path = FreshPath("busy.gguf");
  const absl::StatusOr<GgufFileWriter> first = GgufFileWriter::Create(path, SomeKeys(), Plan());
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(GgufFileWriter::Create(path, SomeKeys(), Plan()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(GgufFileWriter, AFolderThatIsNotThereIsNamed) {
  const absl::Status status =
      GgufFileWriter::Create("/no-such-folder/x.gguf", SomeKeys(), Plan()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("/no-such-folder/x.gguf"));
}

// Every file system is too small for this.
TEST(GgufFileWriter, ADiskThatIsTooSmallIsRefusedBeforeTheWork) {
  const std::string path = FreshPath("full.gguf");
  const absl::Status status =
      GgufFileWriter::Create(path, SomeKeys(), {{"a", {int64_t{1} << 55}, GgmlType::kF32}})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_FALSE(Exists(path + ".partial"));
}

TEST(GgufKeys, KeepsEveryTypeOfAFileAndTheOrder) {
  testing::GgufWriter source = testing::TinyModel({});
  source.Raw("i8", 1, {0x80});
  source.Raw("f64", 12, testing::BytesOf(0.5));
  const std::vector<uint8_t> bytes = source.Build();
  const GgufFile file = GgufFile::Parse(bytes, "m.gguf").value();
  GgufKeys keys = GgufKeys::CopyOf(file);
  EXPECT_EQ(keys.size(), file.Keys().size());
  const std::string path = FreshPath("keys.gguf");
  absl::StatusOr<GgufFileWriter> writer = GgufFileWriter::Create(path, keys, {});
  ASSERT_TRUE(writer.ok() && writer->Finish(keys).ok());
  const GgufFile copy = GgufFile::Open(path).value();
  EXPECT_EQ(copy.Keys(), file.Keys());
  for (const std::string& key : file.Keys()) EXPECT_EQ(copy.Describe(key), file.Describe(key));
  EXPECT_EQ(copy.GetStrings("tokenizer.ggml.tokens").value(),
            file.GetStrings("tokenizer.ggml.tokens").value());
}

TEST(GgufKeys, AKeyIsReplacedInPlaceAndAPrefixRemoved) {
  GgufKeys keys = SomeKeys();
  keys.SetU32("count", 9);
  keys.SetStrings("old.names", std::vector<std::string>{"x", "y"});
  EXPECT_EQ(keys.size(), 4u);
  keys.RemoveAll("old.");
  EXPECT_EQ(keys.size(), 3u);
}

}  // namespace
}  // namespace nibble
