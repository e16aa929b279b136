#include "cli/port_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace nibble {
namespace {

namespace fs = std::filesystem;

class PortFileTest : public ::testing::Test {
 protected:
  PortFileTest() : folder_(fs::path(::testing::TempDir()) / ("ports_" + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~PortFileTest() override { fs::remove_all(folder_); }

  static std::string Read(const fs::path& path) {
    std::ifstream file(path);
    return std::string((std::istreambuf_iterator<char>(file)), {});
  }

  fs::path folder_;
};

TEST_F(PortFileTest, HoldsThePortsAsOneLineOfJson) {
  ASSERT_TRUE(WritePortFile((folder_ / "ports.json").string(), {50051, 9090, 0}).ok());
  EXPECT_EQ(Read(folder_ / "ports.json"), "{\"grpc\":50051,\"metrics\":9090,\"admin\":0}\n");
}

TEST_F(PortFileTest, ReplacesAnOldFileAndLeavesNothingBeside) {
  ASSERT_TRUE(WritePortFile((folder_ / "ports.json").string(), {1, 2, 3}).ok());
  ASSERT_TRUE(WritePortFile((folder_ / "ports.json").string(), {4, 5, 6}).ok());
  EXPECT_EQ(nlohmann::json::parse(Read(folder_ / "ports.json"))["grpc"], 4);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(PortFileTest, NamesAPathThatCannotBeWritten) {
  const std::string path = (folder_ / "no such folder" / "ports.json").string();
  const absl::Status status = WritePortFile(path, {1, 2, 3});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find(path), absl::string_view::npos);
}

TEST_F(PortFileTest, AFolderInItsPlaceIsAnErrorAndStays) {
  fs::create_directories(folder_ / "ports.json" / "inside");
  EXPECT_FALSE(WritePortFile((folder_ / "ports.json").string(), {1, 2, 3}).ok());
  EXPECT_TRUE(fs::is_directory(folder_ / "ports.json"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace nibble
