// The readable oracle: one float at a time, std::exp.
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/row_kernels_inl.h"
#include "kernels/cpu/simd_scalar.h"

namespace nibble::cpu {
const RowKernels kScalarRowKernels = kRowKernelsOf<ScalarVec>;
}  // namespace nibble::cpu
