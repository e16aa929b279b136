#include "server/descriptor_limit.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace nibble {

absl::StatusOr<int32_t> MakeRoomForConnections(int32_t max_connections, Log& log) {
  const auto needed = static_cast<rlim_t>(max_connections + kOtherDescriptors);
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::InternalError(
        absl::StrCat("the limit of file descriptors cannot be read: ", std::strerror(errno)));
  }
  if (limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max) {
    const rlimit raised{.rlim_cur = std::min(needed, limit.rlim_max), .rlim_max = limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  if (limit.rlim_cur >= needed) return max_connections;
  const int64_t fit = static_cast<int64_t>(limit.rlim_cur) - kOtherDescriptors;
  if (fit < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the process may open ", limit.rlim_cur, " files, --max-connections ", max_connections,
        " needs ", needed, " and one connection ", kOtherDescriptors + 1, "; raise `ulimit -n`"));
  }
  log.Warning("max_connections_lowered",
              {{"from", max_connections},
               {"to", fit},
               {"open_files_limit", static_cast<int64_t>(limit.rlim_cur)},
               {"advice", absl::StrCat("ulimit -n ", needed, ", or a lower --max-connections")}});
  return static_cast<int32_t>(fit);
}

}  // namespace nibble
