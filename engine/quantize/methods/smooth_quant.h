// SmoothQuant (arXiv 2211.10438): part of what makes activations hard to quantize is moved into the
// weights. Channel j of the input is divided by s_j (in the norm before), column j of the weights
// multiplied by it:
//   s_j = max|x_j|^alpha / max_n|w_nj|^(1 - alpha)
// With alpha = 1 every channel's largest input becomes 1; with alpha = 0 every column's largest
// weight does, and the inputs take what the columns' spread was.
#pragma once

#include "absl/types/span.h"
#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

inline constexpr float kSmoothAlpha = 0.5f;  // the paper's; 0.75 and more for worse outliers

// For the linears that share an input; `input_max` [cols] is max|x_j|. 1 where either is 0.
VectorF SmoothScales(absl::Span<const MatrixF* const> weights, const VectorF& input_max,
                     float alpha);

}  // namespace nibble::quantize
