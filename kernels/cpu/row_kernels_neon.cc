// Compiled with -march=armv8.2-a+dotprod on arm64.
#include "kernels/cpu/row_kernels.h"

#if defined(__aarch64__)

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/sample_inl.h"
#include "kernels/cpu/simd_neon.h"

namespace nibble::cpu {

const RowKernels kNeonRowKernels = {
    RmsNorm<NeonVec>,     Gated<NeonVec>,       RopeStore<NeonVec>,
    AttendSplit<NeonVec>, FoldSplit<NeonVec>,   MaxOf<NeonVec>,
    Find<NeonVec>,        FindGreater<NeonVec>, Softmax<NeonVec>,
};

}  // namespace nibble::cpu

#else  // not an arm64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kNeonRowKernels = {};
}  // namespace nibble::cpu

#endif
