// What a subcommand reads and writes. Passed in so that tests need no process.
#pragma once

#include <istream>
#include <ostream>

#include "absl/status/status.h"

namespace nibble {

struct Io {
  std::istream& in;
  std::ostream& out;  // results only, so that they can be piped
  std::ostream& err;  // errors, progress, log lines
  bool out_is_terminal = false;
  bool err_is_terminal = false;
};

// Exit codes: a contract with scripts.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;          // the command line or the request is wrong
inline constexpr int kExitInterrupted = 130;  // Ctrl-C

// Prints "nibble: CODE: message" to err and returns kExitFailure.
int Fail(const Io& io, const absl::Status& status);
// The same for what is wrong with the command line: returns kExitUsage.
int WrongUsage(const Io& io, const absl::Status& status);
// WrongUsage for INVALID_ARGUMENT, Fail for the rest: of a status that has the code for what the
// command line says, and for nothing else.
int ExitWith(const Io& io, const absl::Status& status);

}  // namespace nibble
