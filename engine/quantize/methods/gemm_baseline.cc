#define Eigen EigenBaseline
#include "engine/quantize/methods/gemm_inl.h"

namespace nibble::quantize {
const GemmKernels kGemmBaseline = {&Multiply, &Gram};
}  // namespace nibble::quantize
