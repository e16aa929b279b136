#include "kernels/cpu/system_file.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace nibble {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

std::vector<int> ReadNumbers(const std::string& path) {
  const std::string line = FirstLine(path);
  std::vector<int> numbers;
  for (absl::string_view range : absl::StrSplit(line, ',', absl::SkipWhitespace())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int first = 0, last = 0;
    if (!absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last)) return {};
    if (first < 0 || last > kMaxCpuOrNode) return {};
    for (int i = first; i <= last; ++i) numbers.push_back(i);
  }
  return numbers;
}

}  // namespace nibble
