// Compiled with -mavx2 -mfma -mf16c.
#include "kernels/cpu/row_kernels.h"

#if defined(__AVX2__)

#include "kernels/cpu/row_kernels_inl.h"
#include "kernels/cpu/simd_avx2.h"

namespace nibble::cpu {
const RowKernels kAvx2RowKernels = kRowKernelsOf<Avx2Vec>;
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kAvx2RowKernels = {};
}  // namespace nibble::cpu

#endif
