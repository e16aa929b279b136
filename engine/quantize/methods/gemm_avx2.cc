#define Eigen EigenAvx2
#include "engine/quantize/methods/gemm_inl.h"

namespace nibble::quantize {
const GemmKernels kGemmAvx2 = {&Multiply, &Gram};
}  // namespace nibble::quantize
