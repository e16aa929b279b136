// Adam (arXiv 1412.6980, algorithm 1), for one matrix.
#pragma once

#include <cstdint>

#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

class Adam {
 public:
  Adam(int64_t rows, int64_t cols)
      : mean_(MatrixF::Zero(rows, cols)), square_(MatrixF::Zero(rows, cols)) {}

  // One step. `number` counts from 1: the moments begin at 0, and are corrected for it.
  void Step(int64_t number, float rate, const MatrixF& gradient, MatrixF& values);

 private:
  MatrixF mean_, square_;
};

}  // namespace nibble::quantize
