#include "engine/weights/hf/tensor_set_writer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/weights/hf/partial_folder.h"
#include "engine/weights/hf/tensor_set.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// A path where nothing is yet, in a folder of this test's own.
std::string FreshPath(absl::string_view name) {
  const fs::path parent =
      fs::path(::testing::TempDir()) / absl::StrCat("nibble_set_", getpid(), "_", name);
  fs::remove_all(parent);
  fs::create_directories(parent);
  return (parent / "model").string();
}

std::vector<std::string> FilesIn(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<SafetensorsTensorPlan> Plan(int count) {
  std::vector<SafetensorsTensorPlan> plan;
  for (int i = 0; i < count; ++i) {
    plan.push_back({absl::StrCat("t", i), SafetensorsType::kU8, {100}});
  }
  return plan;
}

// Writes tensor i as a hundred bytes i, and reads them back.
void RoundTrip(const std::string& path, int count, int64_t max_shard_bytes, size_t shards) {
  PartialFolder folder(path);
  ASSERT_EQ(folder.Create(), absl::OkStatus());
  absl::StatusOr<TensorSetWriter> writer =
      TensorSetWriter::Create(folder.path(), Plan(count), max_shard_bytes);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ(writer->num_shards(), shards);
  for (int i = 0; i < count; ++i) {
    const std::vector<uint8_t> bytes(100, static_cast<uint8_t>(i));
    ASSERT_TRUE(writer->Write(static_cast<size_t>(i), 0, bytes).ok());
  }
  ASSERT_EQ(writer->Finish(), absl::OkStatus());
  EXPECT_FALSE(fs::exists(path));
  ASSERT_EQ(folder.Publish(), absl::OkStatus());
  const TensorSet set = TensorSet::Open(ModelFolder::Open(path).value()).value();
  EXPECT_EQ(set.files().size(), shards);
  for (int i = 0; i < count; ++i) {
    const StoredTensor* tensor = set.Find(absl::StrCat("t", i));
    ASSERT_NE(tensor, nullptr) << i;
    EXPECT_EQ(*tensor->Bytes(0, 100), std::vector<uint8_t>(100, static_cast<uint8_t>(i)));
  }
}

TEST(TensorSetWriter, OneFileHasNoIndex) {
  const std::string path = FreshPath("one");
  RoundTrip(path, 7, 700, 1);
  EXPECT_THAT(FilesIn(path), ::testing::ElementsAre("model.safetensors"));
}

TEST(TensorSetWriter, ShardsAndTheirIndexAreOneSet) {
  const std::string path = FreshPath("shards");
  RoundTrip(path, 7, 250, 4);
  EXPECT_THAT(
      FilesIn(path),
      ::testing::ElementsAre("model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                             "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                             "model.safetensors.index.json"));
}

// A tensor is never cut; one above the limit has a file of its own.
TEST(TensorSetWriter, ATensorAboveTheLimitIsAShard) { RoundTrip(FreshPath("large"), 3, 10, 3); }

TEST(TensorSetWriter, MoreShardsThanAreReadAreRefused) {
  const std::string path = FreshPath("many");
  PartialFolder folder(path);
  ASSERT_TRUE(folder.Create().ok());
  const auto writer = TensorSetWriter::Create(folder.path(), Plan(kMaxShards + 1), 1);
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(PartialFolder, NothingStaysOfWhatIsNotPublished) {
  const std::string path = FreshPath("dropped");
  {
    PartialFolder folder(path);
    ASSERT_TRUE(folder.Create().ok());
    ASSERT_TRUE(folder.WriteText("config.json", "{}").ok());
    EXPECT_TRUE(fs::exists(path + ".partial/config.json"));
  }
  EXPECT_TRUE(fs::is_empty(fs::path(path).parent_path()));
}

TEST(PartialFolder, WhatAKilledWriterLeftIsTakenOver) {
  const std::string path = FreshPath("killed");
  fs::create_directories(path + ".partial");
  std::ofstream(path + ".partial/model.safetensors.partial") << "half";
  PartialFolder folder(path);
  ASSERT_EQ(folder.Create(), absl::OkStatus());
  ASSERT_TRUE(folder.WriteText("a", "b").ok());
  ASSERT_TRUE(folder.Publish().ok());
  EXPECT_THAT(FilesIn(path), ::testing::ElementsAre("a"));
}

TEST(PartialFolder, TwoWritersOfOnePathAreKeptApart) {
  const std::string path = FreshPath("two");
  PartialFolder first(path);
  ASSERT_TRUE(first.Create().ok());
  {
    PartialFolder second(path);
    EXPECT_EQ(second.Create().code(), absl::StatusCode::kUnavailable);
  }
  ASSERT_TRUE(first.WriteText("a", "b").ok());  // the second took nothing away
  EXPECT_TRUE(first.Publish().ok());
}

TEST(PartialFolder, WhatIsThereIsNeverRemoved) {
  const std::string path = FreshPath("there");
  fs::create_directories(path);
  std::ofstream(path + "/mine") << "precious";
  EXPECT_EQ(PartialFolder(path).Create().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PartialFolder(path + "/mine").Create().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(FilesIn(path), ::testing::ElementsAre("mine"));
  // A folder in the place of the partial one is no leftover of ours.
  const std::string other = FreshPath("foreign");
  fs::create_directories(other + ".partial/photos");
  EXPECT_EQ(PartialFolder(other).Create().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(fs::exists(other + ".partial/photos"));
}

TEST(PartialFolder, AnEmptyFolderIsFilled) {
  const std::string path = FreshPath("empty");
  fs::create_directories(path);
  PartialFolder folder(path + "/");  // slashes at the end are no part of the name
  ASSERT_TRUE(folder.Create().ok());
  ASSERT_TRUE(folder.WriteText("a", "b").ok());
  ASSERT_TRUE(folder.Publish().ok());
  EXPECT_THAT(FilesIn(path), ::testing::ElementsAre("a"));
}

}  // namespace
}  // namespace nibble
