#include "engine/base/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

namespace nibble {
namespace {

struct Lines {
  std::vector<std::string> all;
  std::shared_ptr<Log> At(LogLevel level) {
    return Log::ToFunction(level, [this](const std::string& line) { all.push_back(line); });
  }
};

TEST(LogTest, EachLineIsOneJsonObjectInOrder) {
  Lines lines;
  auto log = lines.At(LogLevel::kInfo);
  log->Warning(
      "it_happened",
      {{"text", "a"}, {"count", 7}, {"big", uint64_t{1} << 40}, {"ratio", 0.5}, {"yes", true}});
  ASSERT_EQ(lines.all.size(), 1u);
  const auto json = nlohmann::json::parse(lines.all[0]);
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["event"], "it_happened");
  EXPECT_EQ(json["text"], "a");
  EXPECT_EQ(json["count"], 7);
  EXPECT_EQ(json["big"], int64_t{1} << 40);
  EXPECT_EQ(json["ratio"], 0.5);
  EXPECT_EQ(json["yes"], true);
  // "2026-11-23T16:02:11.402Z": people and machines sort by it.
  const std::string time = json["time"];
  ASSERT_EQ(time.size(), 24u);
  EXPECT_EQ(time[10], 'T');
  EXPECT_EQ(time.back(), 'Z');
}

// Whatever a client puts into a header or a field, a line stays a line and JSON.
TEST(LogTest, HostileTextStaysInsideItsString) {
  Lines lines;
  auto log = lines.At(LogLevel::kInfo);
  const std::vector<std::string> hostile = {
      "quote\" backslash\\ newline\n tab\t bell\x07 del\x7f",
      std::string("nul\0nul", 7),
      "{} {0} %v %d",
      "broken \xff\xc3 \xed\xa0\x80 \xf5\x80\x80\x80 \xe2\x82",
      "overlong \xc0\xaf \xe0\x80\xaf \xf0\x80\x80\xaf",
      "good \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"};
  for (const std::string& text : hostile) log->Info("x", {{"text", text}});
  ASSERT_EQ(lines.all.size(), hostile.size());
  for (size_t i = 0; i < lines.all.size(); ++i) {
    EXPECT_EQ(lines.all[i].find('\n'), std::string::npos);
    EXPECT_NO_THROW(nlohmann::json::parse(lines.all[i])) << lines.all[i];
  }
  EXPECT_EQ(nlohmann::json::parse(lines.all[0])["text"], hostile[0]);
  EXPECT_EQ(nlohmann::json::parse(lines.all[1])["text"], hostile[1]);
  EXPECT_EQ(nlohmann::json::parse(lines.all[2])["text"], hostile[2]);
  EXPECT_EQ(nlohmann::json::parse(lines.all[5])["text"], hostile[5]);
}

TEST(LogTest, NumbersThatJsonDoesNotKnowAreNull) {
  Lines lines;
  auto log = lines.At(LogLevel::kInfo);
  log->Info("x", {{"nan", std::nan("")}, {"inf", INFINITY}});
  const auto json = nlohmann::json::parse(lines.all[0]);
  EXPECT_TRUE(json["nan"].is_null());
  EXPECT_TRUE(json["inf"].is_null());
}

TEST(LogTest, TheLevelDecidesAndMayChange) {
  Lines lines;
  auto log = lines.At(LogLevel::kWarning);
  EXPECT_EQ(log->level(), LogLevel::kWarning);
  log->Info("dropped");
  log->Error("kept");
  log->set_level(LogLevel::kDebug);
  log->Debug("kept_too");
  log->set_level(LogLevel::kOff);
  log->Error("dropped_too");
  ASSERT_EQ(lines.all.size(), 2u);
  EXPECT_NE(lines.all[1].find("kept_too"), std::string::npos);
}

// What is queued dies with the process; the reason for its end must not.
TEST(LogDeathTest, TheLastLineIsWrittenBeforeTheProcessEnds) {
  const auto end = [] {
    auto log = Log::ToStderr(LogLevel::kError);
    log->WriteLast(LogLevel::kInfo, "too_little");
    log->WriteLast(LogLevel::kError, "the_end", {{"why", "stuck"}});
    std::_Exit(3);
  };
  EXPECT_EXIT(
      end(), ::testing::ExitedWithCode(3),
      "^\\{\"time\":\"[^\"]*\",\"level\":\"error\",\"event\":\"the_end\",\"why\":\"stuck\"\\}");
}

TEST(LogTest, LevelsHaveNames) {
  EXPECT_EQ(LogLevelName(LogLevel::kDebug), "debug");
  EXPECT_EQ(LogLevelName(LogLevel::kWarning), "warning");
  EXPECT_EQ(LogLevelName(LogLevel::kOff), "off");
}

TEST(LogTest, ThreadsDoNotMixTheirLines) {
  std::vector<std::string> lines;
  auto log =
      Log::ToFunction(LogLevel::kInfo, [&](const std::string& line) { lines.push_back(line); });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) log->Info("x", {{"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines.size(), 400u);
  for (const std::string& line : lines) EXPECT_NO_THROW(nlohmann::json::parse(line));
}

TEST(LogTest, StderrGetsWhatWasQueuedBeforeTheLogGoes) {
  ::testing::internal::CaptureStderr();
  {
    auto log = Log::ToStderr(LogLevel::kInfo);
    for (int i = 0; i < 50; ++i) log->Info("queued", {{"i", i}});
  }
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 50);
  EXPECT_NE(text.find("\"i\":49}"), std::string::npos);
}

}  // namespace
}  // namespace nibble
