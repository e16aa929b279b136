// The gated activation of one element (GatedActivationParams in kernels/ops.h).
#pragma once

#include "kernels/cuda/ptx.cuh"

namespace nibble::cuda {
namespace {

// silu(gate) * up
__device__ __forceinline__ float Gate(float gate, float up) {
  constexpr float kLog2E = 1.4426950408889634f;
  return gate / (1.0f + ptx::Exp2(-gate * kLog2E)) * up;
}

}  // namespace
}  // namespace nibble::cuda
