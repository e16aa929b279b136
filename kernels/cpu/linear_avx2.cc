#include "kernels/cpu/linear_kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "kernels/cpu/int_simd_avx2.h"
#include "kernels/cpu/linear_panels_inl.h"

namespace nibble::cpu {
const LinearKernels kAvx2Linear = MakeLinearKernels<Avx2Ints>();
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvx2Linear = {};
}  // namespace nibble::cpu

#endif
