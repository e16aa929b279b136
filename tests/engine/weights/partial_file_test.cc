#include "engine/weights/partial_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

TEST(LockAloneTest, AnotherHolderIsToldFromNoLockToBeHad) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/nibble_lock_", getpid());
  const int first = open(path.c_str(), O_RDWR | O_CREAT, 0644);
  const int second = open(path.c_str(), O_RDWR);
  ASSERT_TRUE(first >= 0 && second >= 0);
  EXPECT_EQ(LockAlone(first, path, "writing it"), absl::OkStatus());
  EXPECT_EQ(LockAlone(second, path, "writing it"),
            absl::UnavailableError(path + ": another process is writing it"));
  close(first);
  EXPECT_EQ(LockAlone(second, path, "writing it"), absl::OkStatus());
  close(second);
  unlink(path.c_str());
  // A file system without locks says ENOLCK or the like; a closed file is as good an error.
  EXPECT_EQ(LockAlone(-1, path, "writing it"),
            absl::UnavailableError(path + ": locking it: Bad file descriptor"));
}

TEST(PartialFileTest, AWriterOfTheSamePathIsRefused) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/nibble_partial_", getpid());
  PartialFile first(path), second(path);
  ASSERT_TRUE(first.Create().ok());
  EXPECT_EQ(second.Create(),
            absl::UnavailableError(path + ".partial: another process is writing it"));
}

}  // namespace
}  // namespace nibble
