#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {
const LinearKernels kAvx2Linear = kScalarLinear;
}  // namespace nibble::cpu
