// A linear as it would run: y = x W^T with weights, and for some methods activations, quantized.
//
// Products of int8 codes are formed in f32 and are exact up to 1,040 columns (127 * 127 * 1,040 <
// 2^24), beyond that rounded as any f32 sum; these are references for what a method costs in
// quality, not kernels.
#pragma once

#include <memory>

#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

class LinearOp {
 public:
  virtual ~LinearOp() = default;
  // x [tokens, in] -> [tokens, out]. Any thread.
  virtual MatrixF Apply(const MatrixF& x) const = 0;
};

std::unique_ptr<LinearOp> MakeDenseOp(MatrixF weight);

// W8A8: weights symmetric int8 a row, activations symmetric int8, one scale a token (dynamic) or,
// with `input_max` > 0, one scale for all that was fixed by calibration; what lies beyond it
// saturates.
std::unique_ptr<LinearOp> MakeW8A8Op(const MatrixF& weight, float input_max = 0);

// LLM.int8() (arXiv 2208.07339): input columns in which any token's magnitude reaches `threshold`
// are multiplied in f16, the others as W8A8 with a scale a token.
inline constexpr float kOutlierThreshold = 6.0f;
std::unique_ptr<LinearOp> MakeOutlierOp(const MatrixF& weight, float threshold = kOutlierThreshold);

}  // namespace nibble::quantize
