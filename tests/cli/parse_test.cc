#include "cli/parse.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(ParseDurationTest, ReadsEveryUnit) {
  EXPECT_EQ(*ParseDuration("500ms"), milliseconds(500));
  EXPECT_EQ(*ParseDuration("250us"), std::chrono::microseconds(250));
  EXPECT_EQ(*ParseDuration("30s"), seconds(30));
  EXPECT_EQ(*ParseDuration("1.5m"), seconds(90));
  EXPECT_EQ(*ParseDuration("2h"), hours(2));
  EXPECT_EQ(*ParseDuration("0"), seconds(0));
  EXPECT_EQ(*ParseDuration("0s"), seconds(0));
}

TEST(ParseDurationTest, RefusesWhatIsNoDurationAndSaysWhatOneLooksLike) {
  for (const char* text : {"", "30", "s", "ms", "-1s", "+1s", " 1s", "1 s", "1e3s", "nans", "infs",
                           "0x10s", "1d", "1.2.3s", "30S", "1,5s"}) {
    const absl::StatusOr<Duration> duration = ParseDuration(text);
    ASSERT_FALSE(duration.ok()) << text;
    EXPECT_EQ(duration.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(duration.status().message().find("30s"), absl::string_view::npos) << text;
  }
}

TEST(ParseDurationTest, RefusesMoreThanTenYears) {
  EXPECT_TRUE(ParseDuration("80000h").ok());
  EXPECT_FALSE(ParseDuration("90000h").ok());
  EXPECT_FALSE(ParseDuration("99999999999999999999999h").ok());
}

TEST(FormatDurationTest, GivesTheShortestFormThatReadsBack) {
  EXPECT_EQ(FormatDuration(seconds(0)), "0s");
  EXPECT_EQ(FormatDuration(seconds(30)), "30s");
  EXPECT_EQ(FormatDuration(milliseconds(1500)), "1500ms");
  EXPECT_EQ(FormatDuration(minutes(2)), "2m");
  EXPECT_EQ(FormatDuration(hours(3)), "3h");
  for (const milliseconds ms : {milliseconds(1), milliseconds(999), milliseconds(61000),
                                milliseconds(3600001), milliseconds(7200000)}) {
    EXPECT_EQ(*ParseDuration(FormatDuration(ms)), ms) << ms.count();
  }
}

TEST(ParseIntListTest, ReadsIdsAndNothing) {
  EXPECT_EQ(*ParseIntList("1,2,3"), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(*ParseIntList("1, -2"), (std::vector<int32_t>{1, -2}));
  EXPECT_TRUE(ParseIntList("")->empty());
  EXPECT_TRUE(ParseIntList("  ")->empty());
}

TEST(ParseIntListTest, NamesTheItemThatIsNoNumber) {
  for (const char* text : {"1,,2", "1,x", "1.5", "99999999999", "1;2"}) {
    EXPECT_FALSE(ParseIntList(text).ok()) << text;
  }
  EXPECT_EQ(ParseIntList("1,frog").status().message(),
            "found \"frog\", needed whole numbers separated by commas");
}

TEST(ParseLogitBiasTest, ReadsIdAndBias) {
  EXPECT_EQ(*ParseLogitBias("1234=-100"), (std::pair<int32_t, float>{1234, -100.0f}));
  EXPECT_EQ(*ParseLogitBias("0=1.5"), (std::pair<int32_t, float>{0, 1.5f}));
}

TEST(ParseLogitBiasTest, RefusesEverythingElse) {
  for (const char* text : {"", "=", "1", "1=", "=1", "x=1", "1=x", "1=2=3", "1:2"}) {
    EXPECT_FALSE(ParseLogitBias(text).ok()) << text;
  }
}

}  // namespace
}  // namespace nibble
