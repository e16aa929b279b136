#include "engine/quantize/calibration/residual_store.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::quantize {
namespace {

MatrixF Window(float value) { return MatrixF::Constant(8, 16, value); }
constexpr int64_t kWindowBytes = 8 * 16 * 4;

class ResidualStoreTest : public ::testing::Test {
 protected:
  ResidualStoreTest()
      : folder_(absl::StrCat(::testing::TempDir(), "/nibble_residuals_", getpid())) {
    std::filesystem::create_directory(folder_);
  }
  ~ResidualStoreTest() override { std::filesystem::remove_all(folder_); }

  const std::string folder_;
};

TEST_F(ResidualStoreTest, StaysInMemoryUpToTheLimitAndNotBeyond) {
  ResidualStore store(folder_, 2 * kWindowBytes);
  ASSERT_TRUE(store.Add(Window(1)).ok());
  ASSERT_TRUE(store.Add(Window(2)).ok());
  EXPECT_FALSE(store.in_file());
  ASSERT_TRUE(store.Add(Window(3)).ok());
  EXPECT_TRUE(store.in_file());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(*store.Take(i), Window(static_cast<float>(i + 1)));
}

TEST_F(ResidualStoreTest, WithoutAFolderThereIsNoFile) {
  ResidualStore store("", 1);
  ASSERT_TRUE(store.Add(Window(1)).ok());
  EXPECT_FALSE(store.in_file());
  EXPECT_EQ(*store.Take(0), Window(1));
}

TEST_F(ResidualStoreTest, KeepsWhatIsReturnedChanged) {
  for (int64_t limit : {int64_t{1}, 100 * kWindowBytes}) {
    ResidualStore store(folder_, limit);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(store.Add(Window(static_cast<float>(i))).ok());
    MatrixF taken = *store.Take(2);
    taken.array() += 10;
    ASSERT_TRUE(store.Return(2, taken, true).ok());
    EXPECT_EQ(*store.Take(2), Window(12));
    ASSERT_TRUE(store.Return(2, Window(12), false).ok());
    EXPECT_EQ(*store.Take(2), Window(12));
    EXPECT_EQ(*store.Take(3), Window(3)) << "its neighbours are untouched";
  }
}

// A killed process must leave nothing: the file has no name even while it is used.
TEST_F(ResidualStoreTest, TheFileHasNoName) {
  ResidualStore store(folder_, 1);
  ASSERT_TRUE(store.Add(Window(1)).ok());
  EXPECT_TRUE(store.in_file());
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(ResidualStoreTest, AFolderThatIsNotThereIsNamed) {
  ResidualStore store("/nowhere/at/all", 1);
  const absl::Status status = store.Add(Window(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(status.message()).find("/nowhere/at/all"), std::string::npos);
}

// A file size limit is a full disk as this process sees it.
TEST_F(ResidualStoreTest, AFullDiskIsAnError) {
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {2 * kWindowBytes, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  ResidualStore store(folder_, 1);
  EXPECT_TRUE(store.Add(Window(1)).ok());
  EXPECT_TRUE(store.Add(Window(2)).ok());
  EXPECT_EQ(store.Add(Window(3)).code(), absl::StatusCode::kResourceExhausted);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
}

}  // namespace
}  // namespace nibble::quantize
