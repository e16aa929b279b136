// Learned weight clipping, as OmniQuant (arXiv 2308.13137) has it: every group's range is shrunk so
// that the layer's outputs suffer least, not the weights themselves. OmniQuant learns the shrinking
// factors by gradient; with H = X^T X of the inputs the loss trace(D H D^T) is exact and quadratic,
// so a search over a grid, one group after the other, needs no learning rate. AWQ's clip search is
// its first step: each group by itself.
#pragma once

#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/quantize/methods/scheme.h"

namespace nibble::quantize {

struct ClippingOptions {
  // Passes over a row's groups, each one seeing what the others' errors do to the outputs. 0: each
  // group by itself, as AWQ does it.
  int sweeps = 2;
  float least = 0.2f;  // of the range, that is tried; AWQ: 0.5
  int threads = 1;
};

// Rounded to nearest within the ranges found. Never worse than RoundToNearest by OutputError (but
// for sweeps = 0, which does not look at the whole). Asymmetric grids: both ends together, then
// each. Cost: about 40 roundings of every element and as many products with the group's part of H.
// REQUIRES CheckShape, scales within a row (not tensor or block), and no double quantization.
QuantizedWeight LearnClipping(const MatrixF& weight, const MatrixF& hessian, const Scheme& scheme,
                              const ClippingOptions& options);

}  // namespace nibble::quantize
