// CHECK for broken invariants: states that only a bug can cause. It prints the condition and the place
// and aborts. Whatever a user can cause (a file, a request, a flag) is an absl::Status instead.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace nibble {

[[noreturn]] inline void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: invariant broken: %s\n", file, line, condition);
  std::abort();
}

}  // namespace nibble

#define NIBBLE_CHECK(condition) \
  ((condition) ? (void)0 : ::nibble::CheckFailed(#condition, __FILE__, __LINE__))
