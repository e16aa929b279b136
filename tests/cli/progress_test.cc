#include "cli/progress.h"

#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace nibble {
namespace {

TEST(ProgressTest, ATerminalGetsABarThatIsClearedAtTheEnd) {
  std::ostringstream err;
  {
    Progress progress(err, true, "loading", nullptr);
    progress.Update(1, 2);
    EXPECT_NE(err.str().find("loading [###############...............] 50%"), std::string::npos)
        << err.str();
    progress.Update(2, 2);
    EXPECT_NE(err.str().find("100%"), std::string::npos);
  }
  EXPECT_EQ(err.str().substr(err.str().size() - 4), "\r\033[K");
}

TEST(ProgressTest, ALogGetsALineAQuarterAndNothingElse) {
  std::ostringstream err;
  std::vector<std::string> lines;
  {
    Progress progress(err, false, "loading",
                      [&lines](const std::string& line) { lines.push_back(line); });
    for (int i = 0; i <= 1000; ++i) progress.Update(i, 1000);
  }
  EXPECT_EQ(lines, (std::vector<std::string>{"loading 25%", "loading 50%", "loading 75%",
                                             "loading 100%"}));
  EXPECT_EQ(err.str(), "");
}

TEST(ProgressTest, WithAClockTheBarSaysHowMuchTimeIsLeft) {
  std::ostringstream err;
  FakeClock clock;
  Progress progress(err, true, "x", nullptr, &clock);
  const auto shown = [&](int64_t done, int64_t total, Duration passed) {
    err.str("");
    clock.Advance(passed);
    progress.Update(done, total);
    return err.str();
  };
  using std::chrono::seconds;
  EXPECT_EQ(shown(0, 1000, seconds(0)).find("left"), std::string::npos) << "no pace yet";
  EXPECT_NE(shown(10, 1000, seconds(100)).find(" 1%, 2 h 45 min left"), std::string::npos);
  EXPECT_NE(shown(500, 1000, seconds(100)).find(" 50%, 3 min 20 s left"), std::string::npos);
  EXPECT_NE(shown(900, 1000, seconds(70)).find(" 90%, 30 s left"), std::string::npos);
  EXPECT_NE(shown(1000, 1000, seconds(9)).find(" 100%, 0 s left"), std::string::npos);
}

TEST(ProgressTest, WhatIsDoneSoonShowsNothing) {
  std::ostringstream err;
  FakeClock clock;
  {
    Progress progress(err, true, "loading", nullptr);
    progress.QuietFor(std::chrono::seconds(2), clock);
    progress.Update(1, 4);
    clock.Advance(std::chrono::milliseconds(1999));
    progress.Update(2, 4);
    EXPECT_EQ(err.str(), "");
    clock.Advance(std::chrono::milliseconds(1));
    progress.Update(3, 4);
    EXPECT_NE(err.str().find("75%"), std::string::npos);
  }
}

TEST(ProgressTest, NothingToDoIsNoDivisionByZero) {
  std::ostringstream err;
  Progress progress(err, true, "loading", nullptr);
  progress.Update(0, 0);
  EXPECT_EQ(err.str(), "");
}

TEST(ProgressTest, TheSamePercentIsNotDrawnTwice) {
  std::ostringstream err;
  Progress progress(err, true, "x", nullptr);
  progress.Update(500, 1000);
  const size_t size = err.str().size();
  progress.Update(501, 1000);
  EXPECT_EQ(err.str().size(), size);
}

}  // namespace
}  // namespace nibble
