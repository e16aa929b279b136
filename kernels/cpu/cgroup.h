// The control groups this process is in: where a container's limits stand.
// cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
#pragma once

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace nibble {

// Calls `visit` with the folder of the group that `controller` ("cpu", "memory") is limited by, and
// of each group above it: all of them hold. In version 1 a controller has a tree of its own. A
// folder may not be there: a container often sees its group as the root.
//
// Reads /proc/self/cgroup; folders are below /sys/fs/cgroup. `root` is put before those paths
// (tests have one of their own).
void VisitCgroups(const std::string& root, absl::string_view controller,
                  absl::FunctionRef<void(const std::string& folder, bool version_2)> visit);

}  // namespace nibble
