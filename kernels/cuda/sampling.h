// SampleParams (kernels/ops.h) on the device: rows and their lists go there in one copy, sample.h
// draws, and the drawn ids with their log probabilities come back in another.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// The fault of a row that nothing can be drawn from.
void KeepUndrawable(Device& device, const SampleRow& row);

// Keeps its host buffers from step to step.
class Sampler {
 public:
  // Waits for the device. As many rows go through at once as the workspace has room for: each
  // takes SampleScratchBytes, and its lists. Faults of op "sample": a row
  // that nothing can be drawn from; a vocabulary above 2^19; a row that the workspace has no room
  // for. The last cannot be where lists hold no id twice and the workspace has, beyond its
  // counters, 20 KB and 64 bytes for every token of the vocabulary.
  void Run(Device& device, Workspace& workspace, const SampleParams& params);

 private:
  void RunRows(Device& device, Workspace& workspace, const SampleParams& params);

  std::vector<uint8_t> staged_, lists_;  // of a launch
  std::vector<uint8_t> results_;
};

}  // namespace nibble::cuda
