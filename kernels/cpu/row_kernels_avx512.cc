// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c.
#include "kernels/cpu/row_kernels.h"

#if defined(__AVX512BW__)

#include "kernels/cpu/row_kernels_inl.h"
#include "kernels/cpu/simd_avx512.h"

namespace nibble::cpu {
const RowKernels kAvx512RowKernels = kRowKernelsOf<Avx512Vec>;
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kAvx512RowKernels = {};
}  // namespace nibble::cpu

#endif
