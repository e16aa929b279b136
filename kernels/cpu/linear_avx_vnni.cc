#include "kernels/cpu/linear_kernels.h"

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))

#include "kernels/cpu/int_simd_avx_vnni.h"
#include "kernels/cpu/linear_panels_inl.h"

namespace nibble::cpu {
const LinearKernels kAvxVnniLinear = MakeLinearKernels<AvxVnniInts>();
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvxVnniLinear = {};
}  // namespace nibble::cpu

#endif
