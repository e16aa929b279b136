#include "kernels/cpu/linear_kernels.h"

#if defined(__AVX512VNNI__)

#include "kernels/cpu/int_simd_avx512_vnni.h"
#include "kernels/cpu/linear_panels_inl.h"

namespace nibble::cpu {
const LinearKernels kAvx512VnniLinear = MakeLinearKernels<Avx512VnniInts>();
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvx512VnniLinear = {};
}  // namespace nibble::cpu

#endif
