// The most memory this process had resident since a point in time, as Linux counts it.
#pragma once

#include <cstdint>

namespace nibble {

// Forgets the peak so far; false where the kernel does not let it (then the peak is of all time).
bool ResetPeakMemory();
int64_t PeakMemoryBytes();  // 0: unknown

}  // namespace nibble
