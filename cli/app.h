// The program as a function: arguments and streams in, exit code out.
#pragma once

#include <string>
#include <vector>

#include "cli/flags.h"
#include "cli/io.h"

namespace nibble {

// `args` without the program's name. Prints help and usage errors itself; a usage error is
// kExitUsage. Results that `io.out` did not take whole are a failure, whatever the command said.
int RunCli(const std::vector<std::string>& args, const Environment& environment, const Io& io);

}  // namespace nibble
