#include "kernels/cpu/system_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class SystemFileTest : public ::testing::Test {
 protected:
  ~SystemFileTest() override { std::remove(path_.c_str()); }
  const std::string& Holding(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }

  const std::string path_ = ::testing::TempDir() + "system_file_" +
                            ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(SystemFileTest, TheFirstLineIsTrimmed) {
  EXPECT_EQ(FirstLine(Holding("  32K \nmore\n")), "32K");
  EXPECT_EQ(FirstLine(Holding("")), "");
  EXPECT_EQ(FirstLine("/no/such/file"), "");
}

TEST_F(SystemFileTest, ListsAreNumbersAndRanges) {
  EXPECT_THAT(ReadNumbers(Holding("0-3,8\n")), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(ReadNumbers(Holding("5")), ElementsAre(5));
  EXPECT_THAT(ReadNumbers(Holding("4095")), ElementsAre(4095));
  EXPECT_THAT(ReadNumbers(Holding("\n")), IsEmpty());
  EXPECT_THAT(ReadNumbers("/no/such/file"), IsEmpty());
}

// A container may show anything in the place of these files.
TEST_F(SystemFileTest, WhatIsNoListHasNoNumbers) {
  for (const char* text : {"a", "0-", "-1", "0-x", "0-4096", "0-99999999999"}) {
    EXPECT_THAT(ReadNumbers(Holding(text)), IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace nibble
