#define Eigen EigenAvx512
#include "engine/quantize/methods/gemm_inl.h"

namespace nibble::quantize {
const GemmKernels kGemmAvx512 = {&Multiply, &Gram};
}  // namespace nibble::quantize
