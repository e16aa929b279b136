// Folders of shards: what an index may name, and what it may not.
#include "engine/weights/hf/tensor_set.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::SafetensorsWriter;

class Shards : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    root_ = fs::path(::testing::TempDir()) / ("nibble_shards_" + test);
    fs::remove_all(root_);
    fs::create_directories(root_ / "model");
    WriteShard("model/one.safetensors", {"a", "b"});
    WriteShard("model/two.safetensors", {"c"});
    WriteShard("outside.safetensors", {"c"});
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(root_ / name, std::ios::binary) << text;
  }
  void WriteShard(const std::string& name, const std::vector<std::string>& tensors) {
    SafetensorsWriter writer;
    for (const std::string& tensor : tensors) writer.Add(tensor, "U8", {2}, {1, 2});
    const std::vector<uint8_t> bytes = writer.Build();
    Write(name, std::string(bytes.begin(), bytes.end()));
  }
  void WriteIndex(const std::string& map) {
    Write("model/model.safetensors.index.json", absl::StrCat("{\"weight_map\":{", map, "}}"));
  }
  absl::StatusOr<TensorSet> Open() const {
    return TensorSet::Open(ModelFolder::Open((root_ / "model").string()).value());
  }
  void ExpectRefused(absl::StatusCode code, absl::string_view part) const {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
  }

  fs::path root_;
};

TEST_F(Shards, TensorsOfAllShardsAreOneSet) {
  WriteIndex(R"("a":"one.safetensors","b":"one.safetensors","c":"two.safetensors")");
  const TensorSet set = Open().value();
  EXPECT_EQ(set.files().size(), 2u);
  EXPECT_NE(set.Find("a"), nullptr);
  EXPECT_EQ(set.Find("c")->Bytes(0, 2).value(), (std::vector<uint8_t>{1, 2}));
  EXPECT_EQ(set.Find("d"), nullptr);
}

TEST_F(Shards, OneFileNeedsNoIndex) {
  WriteShard("model/model.safetensors", {"x"});
  EXPECT_NE(Open()->Find("x"), nullptr);
}

TEST_F(Shards, NamesThatLeaveTheFolderAreRefused) {
  const auto kDenied = absl::StatusCode::kPermissionDenied;
  for (const char* name : {"../outside.safetensors", "/etc/passwd", "..", ".", "",
                           "sub/../one.safetensors", "./one.safetensors", "x\\u0000y"}) {
    SCOPED_TRACE(name);
    WriteIndex(absl::StrCat("\"c\":\"", name, "\""));
    ExpectRefused(kDenied, "is not a plain name inside of the folder");
  }
}

TEST_F(Shards, LinksMayLeadWithinTheFolderOnly) {
  WriteIndex(R"("c":"link.safetensors")");
  fs::create_symlink("two.safetensors", root_ / "model/link.safetensors");
  EXPECT_TRUE(Open().ok()) << Open().status();
  fs::remove(root_ / "model/link.safetensors");
  fs::create_symlink("../outside.safetensors", root_ / "model/link.safetensors");
  ExpectRefused(absl::StatusCode::kPermissionDenied, "is a link out of the folder");
  fs::remove(root_ / "model/link.safetensors");
  // A folder whose name begins like this one's is another folder.
  fs::create_directories(root_ / "model2");
  WriteShard("model2/two.safetensors", {"c"});
  fs::create_symlink("../model2/two.safetensors", root_ / "model/link.safetensors");
  ExpectRefused(absl::StatusCode::kPermissionDenied, "is a link out of the folder");
  fs::remove(root_ / "model/link.safetensors");
  fs::create_symlink("nowhere", root_ / "model/link.safetensors");
  ExpectRefused(absl::StatusCode::kNotFound, "link.safetensors");
}

TEST_F(Shards, AnIndexThatIsWrongAboutItsShards) {
  WriteIndex(R"("d":"one.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "tensor \"d\" is not in one.safetensors");
  WriteIndex(R"("c":"three.safetensors")");
  ExpectRefused(absl::StatusCode::kNotFound, "three.safetensors");
  WriteIndex(R"("c":3)");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "needed a string");
  WriteIndex("");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "weight_map");
  WriteIndex(R"("c":"two.safetensors","c":"one.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "appears twice");
}

TEST_F(Shards, ATensorInTwoShardsIsRefused) {
  WriteShard("model/three.safetensors", {"c"});
  WriteIndex(R"("c":"two.safetensors","a":"three.safetensors")");
  ExpectRefused(absl::StatusCode::kDataLoss, "is in another file as well");
}

TEST_F(Shards, ThereAreNotMoreFilesThanTheLimit) {
  std::string map;
  for (size_t i = 0; i <= kMaxShards; ++i) {
    absl::StrAppend(&map, i == 0 ? "" : ",", "\"t", i, "\":\"s", i, "\"");
  }
  WriteIndex(map);
  ExpectRefused(absl::StatusCode::kResourceExhausted, "more than 1024 files");
}

TEST_F(Shards, WeightsThatArePicklesAreRefusedByName) {
  ExpectRefused(absl::StatusCode::kNotFound, "has neither model.safetensors nor");
  Write("model/pytorch_model.bin", "x");
  ExpectRefused(absl::StatusCode::kUnimplemented, "pytorch_model.bin: is a Python pickle");
}

TEST_F(Shards, PipesAndFoldersAreNoShards) {
  WriteIndex(R"("c":"pipe")");
  ASSERT_EQ(mkfifo((root_ / "model/pipe").c_str(), 0600), 0);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "is not a regular file");
  WriteIndex(R"("c":"sub")");
  fs::create_directories(root_ / "model/sub");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "is a directory");
}

}  // namespace
}  // namespace nibble
