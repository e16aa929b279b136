// Whether a model is going to fit into memory, before any of it is allocated.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace nibble::cpu {

// Bytes of the packed form, for such activations, of such a matrix; where that hangs on values not
// known yet (lut4: scales that are powers of two), of the smaller one.
int64_t PlannedBytes(const PlannedMatrix& matrix, CpuActivations activations);

// OK, or RESOURCE_EXHAUSTED with the sum when `plan` needs more than `free_bytes`. The system maps
// memory that it cannot give and kills whoever writes to it, hours later: pages of the cache are
// first written when sequences need them.
absl::Status CheckMemoryPlan(const MemoryPlan& plan, CpuActivations activations,
                             int64_t free_bytes);

}  // namespace nibble::cpu
