// AttentionParams (kernels/ops.h) on the device. Every token of a step is one query row of
// decode_attention.h, the rows of a prompt as well: each sees its own prefix (SplitTokens in
// rows.h). Prompts thus read the cache once a row, which is right and slow.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// UNIMPLEMENTED names the head size or the cache's type that no kernel reads; RESOURCE_EXHAUSTED
// when one row of max_context tokens needs more than the workspace.
absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads, int32_t max_context,
                            DType activations, int64_t workspace_bytes);

// Asynchronous; errors are kept by the device under "attention". As many rows go through a launch
// as the workspace has room for.
void RunAttention(Device& device, Workspace& workspace, const AttentionParams& params);

}  // namespace nibble::cuda
