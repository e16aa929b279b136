#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "cli/app.h"

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  const nibble::Io io{std::cin, std::cout, std::cerr, isatty(STDOUT_FILENO) == 1,
                      isatty(STDERR_FILENO) == 1};
  const std::vector<std::string> args(argv + 1, argv + argc);
  return nibble::RunCli(
      args, [](const std::string& name) { return std::getenv(name.c_str()); }, io);
}
