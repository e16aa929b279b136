// AttentionParams (kernels/ops.h) on the device. A step of decode rows only goes through
// decode_attention.h; one with chunks of prompts, its decode rows with them, through
// prefill_attention.h. A row's bits are the same from both, on the conditions told there.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// UNIMPLEMENTED names the head size, the cache's type or block size, or the number of heads that no
// kernel reads; RESOURCE_EXHAUSTED
// when one row of max_context tokens needs more than the workspace.
absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads, int32_t max_context,
                            DType activations, int64_t workspace_bytes);

// Asynchronous; errors are kept by the device under "attention".
void RunAttention(Device& device, Workspace& workspace, const AttentionParams& params);

}  // namespace nibble::cuda
