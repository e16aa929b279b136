#include "cli/parse.h"

#include <cmath>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace nibble {
namespace {

struct Unit {
  absl::string_view suffix;
  double seconds;
};
// "ms" before "s" and "m": the longest suffix must be tried first.
constexpr Unit kUnits[] = {{"ms", 1e-3}, {"us", 1e-6}, {"s", 1}, {"m", 60}, {"h", 3600}};
// Far below the 292 years that int64 nanoseconds hold, so adding it to "now" cannot overflow.
constexpr double kMaxSeconds = 10 * 365.25 * 86400;

absl::Status DurationError(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "found \"", text, "\", needed a number with a unit, such as 500ms, 30s, 2m or 1h"));
}

}  // namespace

absl::StatusOr<Duration> ParseDuration(absl::string_view text) {
  if (text == "0") return Duration{};
  for (const Unit& unit : kUnits) {
    absl::string_view number = text;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    double value = 0;
    // SimpleAtod takes "inf" and "nan" as well; a duration is digits.
    if (number.find_first_not_of("0123456789.") != absl::string_view::npos ||
        !absl::SimpleAtod(number, &value)) {
      return DurationError(text);
    }
    const double seconds = value * unit.seconds;
    if (!(seconds <= kMaxSeconds)) {
      return absl::InvalidArgumentError(
          absl::StrCat("found \"", text, "\", needed at most ten years"));
    }
    return Duration(static_cast<int64_t>(std::llround(seconds * 1e9)));
  }
  return DurationError(text);
}

std::string FormatDuration(Duration duration) {
  const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  if (ms % 1000 != 0) return absl::StrCat(ms, "ms");
  const int64_t seconds = ms / 1000;
  if (seconds == 0 || seconds % 60 != 0) return absl::StrCat(seconds, "s");
  if (seconds % 3600 != 0) return absl::StrCat(seconds / 60, "m");
  return absl::StrCat(seconds / 3600, "h");
}

absl::StatusOr<std::vector<int32_t>> ParseIntList(absl::string_view text) {
  std::vector<int32_t> values;
  if (absl::StripAsciiWhitespace(text).empty()) return values;
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    int32_t value = 0;
    if (!absl::SimpleAtoi(item, &value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("found \"", item, "\", needed whole numbers separated by commas"));
    }
    values.push_back(value);
  }
  return values;
}

absl::StatusOr<std::pair<int32_t, float>> ParseLogitBias(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('=', 1));
  std::pair<int32_t, float> bias;
  if (!absl::SimpleAtoi(parts.first, &bias.first) ||
      !absl::SimpleAtof(parts.second, &bias.second)) {
    return absl::InvalidArgumentError(
        absl::StrCat("found \"", text, "\", needed TOKEN_ID=BIAS, such as 1234=-100"));
  }
  return bias;
}

}  // namespace nibble
