#include "cli/parse.h"

#include <cmath>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"

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

struct Multiple {
  absl::string_view suffix;
  double factor;
};
// What ends in "B" alone last: every other suffix ends in it too.
constexpr Multiple kByteUnits[] = {{"KiB", 1024.0}, {"kB", 1e3},
                                   {"KB", 1e3},     {"MiB", 1048576.0},
                                   {"MB", 1e6},     {"GiB", 1073741824.0},
                                   {"GB", 1e9},     {"TiB", 1099511627776.0},
                                   {"TB", 1e12},    {"B", 1},
                                   {"", 1}};
constexpr Multiple kCountUnits[] = {{"m", 1e6},  {"M", 1e6},  {"b", 1e9}, {"B", 1e9},
                                    {"t", 1e12}, {"T", 1e12}, {"", 1}};

// The number before the first suffix that fits, times its factor. -1 where that is no number.
double Multiplied(absl::string_view text, absl::Span<const Multiple> units) {
  for (const Multiple& unit : units) {
    absl::string_view number = text;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    number = absl::StripAsciiWhitespace(number);
    double value = 0;
    // SimpleAtod takes "inf", "nan" and exponents as well.
    if (number.find_first_not_of("0123456789.") != absl::string_view::npos ||
        !absl::SimpleAtod(number, &value)) {
      return -1;
    }
    return value * unit.factor;
  }
  return -1;
}

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

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  constexpr double kMost = 4611686018427387904.0;  // 2^62
  const double bytes = Multiplied(text, kByteUnits);
  if (bytes >= 1 && bytes <= kMost) return std::llround(bytes);
  return absl::InvalidArgumentError(absl::StrCat(
      "found \"", text, "\", needed bytes with a unit, such as 80GB (10^9) or 24GiB (2^30)"));
}

absl::StatusOr<int64_t> ParseCount(absl::string_view text) {
  constexpr double kMost = 1e15;
  const double count = Multiplied(text, kCountUnits);
  if (count >= 1 && count <= kMost) return std::llround(count);
  return absl::InvalidArgumentError(
      absl::StrCat("found \"", text, "\", needed a number such as 70b, 135m or 1.5t"));
}

}  // namespace nibble
