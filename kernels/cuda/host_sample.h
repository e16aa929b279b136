// Sample on the host: logits are copied from the device and drawn from as on the CPU backend, row
// by row. Correct for every setting and slow for a batch; until a kernel draws on the device.
#pragma once

#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// Waits for the device. A row that nothing can be drawn from is kept as a fault named "sample".
class HostSampler {
 public:
  void Run(Device& device, const SampleParams& params);

 private:
  std::vector<float> logits_;
};

}  // namespace nibble::cuda
