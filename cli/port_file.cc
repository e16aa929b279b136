#include "cli/port_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace nibble {

absl::Status WritePortFile(const std::string& path, const BoundPorts& ports) {
  const std::string beside = absl::StrCat(path, ".", getpid(), ".tmp");
  errno = 0;
  {
    std::ofstream file(beside, std::ios::trunc);
    file << "{\"grpc\":" << ports.grpc << ",\"metrics\":" << ports.metrics
         << ",\"admin\":" << ports.admin << "}\n";
    file.flush();
    if (!file) {
      return absl::UnavailableError(
          absl::StrCat("--port-file ", path, ": cannot be written: ", std::strerror(errno)));
    }
  }
  if (std::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(beside.c_str());
    return absl::UnavailableError(
        absl::StrCat("--port-file ", path, ": cannot be replaced: ", std::strerror(error)));
  }
  return absl::OkStatus();
}

}  // namespace nibble
