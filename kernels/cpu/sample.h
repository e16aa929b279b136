// Draws and scores one row of logits, exactly as SampleRow in kernels/ops.h says.
//
// Nothing sorts the vocabulary: passes over the whole row are the vector ones of row_kernels.h;
// top_k, top_p and min_p look at the candidates near the maximum, and at more of them only while
// these do not suffice. top_p is a share of what top_k left. Probabilities are f32, their sums f64.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/row_kernels.h"
#include "kernels/ops.h"

namespace nibble::cpu {

// Working memory of one thread; grows to the vocabulary once.
struct SampleScratch {
  std::vector<float> logits;   // with bias, penalties and restrictions
  std::vector<float> weights;  // exp((logit - max) / temperature)
  std::vector<float> run_sums;
  std::vector<int32_t> survivors;
};

// False when the row has no finite maximum or a NaN: nothing can be drawn, *out is not set.
// REQUIRES every id in `row` in [0, vocab).
bool SampleOneRow(const RowKernels& kernels, const float* logits, int32_t vocab,
                  const SampleRow& row, SampleScratch& scratch, SampledToken* out);

}  // namespace nibble::cpu
