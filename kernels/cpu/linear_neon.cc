#include "kernels/cpu/linear_kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)

#include "kernels/cpu/int_simd_neon.h"
#include "kernels/cpu/linear_panels_inl.h"

namespace nibble::cpu {
const LinearKernels kNeonLinear = MakeLinearKernels<NeonInts>();
}  // namespace nibble::cpu

#else  // not an arm64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kNeonLinear = {};
}  // namespace nibble::cpu

#endif
