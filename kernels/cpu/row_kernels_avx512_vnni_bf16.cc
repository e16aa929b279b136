// Compiled with the flags of row_kernels_avx512.cc and -mavx512bf16.
#include "kernels/cpu/row_kernels.h"

#if defined(__AVX512BF16__)

#include "kernels/cpu/attention_bf16_avx512.h"
#include "kernels/cpu/row_kernels_inl.h"
#include "kernels/cpu/simd_avx512.h"

namespace nibble::cpu {
const RowKernels kAvx512Bf16RowKernels = kRowKernelsOf<Avx512Vec, Avx512Bf16Products>;
}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kAvx512Bf16RowKernels = {};
}  // namespace nibble::cpu

#endif
