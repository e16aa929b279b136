#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "engine/weights/safetensors_file.h"
#include "engine/weights/safetensors_writer.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

std::string FreshPath(const std::string& name) {
  std::string path =
      ::testing::TempDir() + "/nibble_safetensors_" + std::to_string(getpid()) + "_" + name;
  unlink(path.c_str());
  return path;
}

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

std::vector<uint8_t> RandomBytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

std::vector<uint8_t> Contents(const SafetensorsFile& file, absl::string_view name) {
  const SafetensorsTensor* tensor = file.Find(name);
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor->size_bytes));
  EXPECT_TRUE(file.Read(*tensor, 0, absl::MakeSpan(bytes)).ok());
  return bytes;
}

// Every type and rank, empty tensors and scalars among them.
std::vector<SafetensorsTensorPlan> Plan() {
  return {{"bytes", SafetensorsType::kU8, {3, 5}},    {"halves", SafetensorsType::kF16, {7}},
          {"scalar", SafetensorsType::kF32, {}},      {"none", SafetensorsType::kI32, {0, 4}},
          {"wide", SafetensorsType::kI64, {2}},       {"nibbles", SafetensorsType::kF4, {2, 3}},
          {"eight", SafetensorsType::kF8E4m3, {1, 9}}};
}

TEST(SafetensorsFileWriter, WhatIsWrittenIsRead) {
  const std::string path = FreshPath("read");
  absl::StatusOr<SafetensorsFileWriter> writer =
      SafetensorsFileWriter::Create(path, {{"format", "pt"}, {"said", "\"so\" \xc3\xa9"}}, Plan());
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<SafetensorsTensorPlan> plan = Plan();
  std::vector<std::vector<uint8_t>> bytes;
  for (size_t i = 0; i < plan.size(); ++i) {
    bytes.push_back(RandomBytes(BytesOf(plan[i]), static_cast<uint32_t>(i)));
  }
  for (size_t i = plan.size(); i-- > 0;) {  // any order, any pieces
    const absl::Span<const uint8_t> all = bytes[i];
    const size_t half = all.size() / 2;
    ASSERT_TRUE(writer->Write(i, static_cast<int64_t>(half), all.subspan(half)).ok());
    ASSERT_TRUE(writer->Write(i, 0, all.subspan(0, half)).ok());
  }
  EXPECT_FALSE(Exists(path)) << "not before it is whole";
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_FALSE(Exists(path + ".partial"));

  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->size_bytes(), writer->size_bytes());
  EXPECT_THAT(file->metadata(), ElementsAre(Pair("format", "pt"), Pair("said", "\"so\" \xc3\xa9")));
  ASSERT_EQ(file->tensors().size(), plan.size());
  for (size_t i = 0; i < plan.size(); ++i) {
    const SafetensorsTensor* tensor = file->Find(plan[i].name);
    ASSERT_NE(tensor, nullptr) << plan[i].name;
    EXPECT_EQ(tensor->type, plan[i].type);
    EXPECT_EQ(tensor->shape, plan[i].shape);
    EXPECT_EQ(Contents(*file, plan[i].name), bytes[i]) << plan[i].name;
  }
}

// Readers map the file and look at elements where they lie.
TEST(SafetensorsFileWriter, EveryTensorIsAligned) {
  const std::string path = FreshPath("aligned");
  absl::StatusOr<SafetensorsFileWriter> writer = SafetensorsFileWriter::Create(path, {}, Plan());
  ASSERT_TRUE(writer.ok() && writer->Finish().ok());
  const SafetensorsFile file = SafetensorsFile::Open(path).value();
  const auto start = static_cast<int64_t>(file.Preamble().size());
  EXPECT_EQ(start % 8, 0);
  for (const SafetensorsTensor& tensor : file.tensors()) {
    const int64_t width = (TypeBits(tensor.type) + 7) / 8;
    EXPECT_EQ((start + tensor.offset) % width, 0) << tensor.name;
  }
}

TEST(SafetensorsFileWriter, NothingStaysOfWhatIsNotFinished) {
  const std::string path = FreshPath("dropped");
  {
    absl::StatusOr<SafetensorsFileWriter> writer = SafetensorsFileWriter::Create(path, {}, Plan());
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(Exists(path + ".partial"));
    // The disk's space is taken before the work is done.
    struct stat info;
    ASSERT_EQ(stat((path + ".partial").c_str(), &info), 0);
    EXPECT_EQ(info.st_size, writer->size_bytes());
  }
  EXPECT_FALSE(Exists(path));
  EXPECT_FALSE(Exists(path + ".partial"));
}

TEST(SafetensorsFileWriter, AFileWithoutTensorsIsOne) {
  const std::string path = FreshPath("empty");
  absl::StatusOr<SafetensorsFileWriter> writer = SafetensorsFileWriter::Create(path, {}, {});
  ASSERT_TRUE(writer.ok() && writer->Finish().ok());
  EXPECT_EQ(SafetensorsFile::Open(path)->tensors().size(), 0u);
}

TEST(SafetensorsFileWriter, AFolderThatIsNotThereIsNamed) {
  const auto writer = SafetensorsFileWriter::Create("/nowhere/at/all", {}, Plan());
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(writer.status().message(), ::testing::HasSubstr("/nowhere/at/all"));
}

}  // namespace
}  // namespace nibble
