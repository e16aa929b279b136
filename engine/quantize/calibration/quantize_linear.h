// One linear, quantized by a method's matrix algorithm.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/methods/quantized_weight.h"

namespace nibble::quantize {

struct QuantizedLinear {
  QuantizedWeight weight;
  MatrixF values;  // in the linear's own space: rotated back where the method rotates
};

struct LinearOptions {
  double damping = 0.01;
  uint64_t seed = 1;  // of this linear's rotation
  bool clip = false;  // AWQ's clip search, which spares q and k
  int threads = 1;
};

// `hessian` may be empty for rtn. AWQ's and SmoothQuant's scales are the caller's: kAwq rounds what
// it is given.
absl::StatusOr<QuantizedLinear> QuantizeLinear(const Method& method, const MatrixF& weight,
                                               const MatrixF& hessian,
                                               const LinearOptions& options);

}  // namespace nibble::quantize
