// The small text files with which Linux describes the machine, /proc and /sys.
#pragma once

#include <string>
#include <vector>

namespace nibble {

inline constexpr int kMaxCpuOrNode = 4095;  // Linux's own bound of either's number

// The first line of a file without white space around it; "" where there is none.
std::string FirstLine(const std::string& path);

// The numbers of a file's list, "0-3,8" being 0, 1, 2, 3, 8. Empty for a file that is not there, is
// no such list, or names a number beyond kMaxCpuOrNode.
std::vector<int> ReadNumbers(const std::string& path);

}  // namespace nibble
