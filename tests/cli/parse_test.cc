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

TEST(ParseBytesTest, DecimalAndBinaryUnitsDiffer) {
  EXPECT_EQ(*ParseBytes("80GB"), 80'000'000'000);
  EXPECT_EQ(*ParseBytes("24GiB"), int64_t{24} << 30);
  EXPECT_EQ(*ParseBytes("1.5 TiB"), int64_t{3} << 39);
  EXPECT_EQ(*ParseBytes("512MiB"), 512 << 20);
  EXPECT_EQ(*ParseBytes("2kB"), 2000);
  EXPECT_EQ(*ParseBytes("7B"), 7);
  EXPECT_EQ(*ParseBytes("123"), 123);
}

TEST(ParseBytesTest, RefusesEverythingElse) {
  for (const char* text : {"", "0", "GB", "-1GB", "1e9", "inf", "nan", "80G", "80 apples", "1..2GB",
                           "99999999999TB", "1GBB"}) {
    EXPECT_FALSE(ParseBytes(text).ok()) << text;
  }
}

TEST(ParseCountTest, ReadsMillionsAndBillions) {
  EXPECT_EQ(*ParseCount("70b"), 70'000'000'000);
  EXPECT_EQ(*ParseCount("8.03B"), 8'030'000'000);
  EXPECT_EQ(*ParseCount("135m"), 135'000'000);
  EXPECT_EQ(*ParseCount("1t"), 1'000'000'000'000);
  EXPECT_EQ(*ParseCount("42"), 42);
  for (const char* text : {"", "0", "b", "-1b", "many", "1e9", "1001t", "7k"}) {
    EXPECT_FALSE(ParseCount(text).ok()) << text;
  }
}

}  // namespace
}  // namespace nibble
