// The ops of kernels/ops.h that are one launch of one kernel, whose headers say what they need.
// Asynchronous; errors are kept by the device under the op's name.
#pragma once

#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace nibble::cuda {

void RunEmbed(Device& device, const EmbedParams& params);
void RunRmsNorm(Device& device, const RmsNormParams& params);
void RunRopeStoreKv(Device& device, const RopeStoreKvParams& params);
void RunGatedActivation(Device& device, const GatedActivationParams& params);
void RunGatherRows(Device& device, const GatherRowsParams& params);

}  // namespace nibble::cuda
