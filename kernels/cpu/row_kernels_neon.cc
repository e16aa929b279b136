// Compiled with -march=armv8.2-a+dotprod on arm64.
#include "kernels/cpu/row_kernels.h"

#if defined(__aarch64__)

#include "kernels/cpu/row_kernels_inl.h"
#include "kernels/cpu/simd_neon.h"

namespace nibble::cpu {
const RowKernels kNeonRowKernels = kRowKernelsOf<NeonVec>;
}  // namespace nibble::cpu

#else  // not an arm64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kNeonRowKernels = {};
}  // namespace nibble::cpu

#endif
