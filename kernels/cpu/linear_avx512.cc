#include "kernels/cpu/linear_kernels.h"

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include "kernels/cpu/int_simd_avx512.h"
#include "kernels/cpu/linear_panels_inl.h"

namespace nibble::cpu {
const LinearKernels kAvx512Linear = MakeLinearKernels<Avx512Ints>();
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvx512Linear = {};
}  // namespace nibble::cpu

#endif
