// The readable oracle: one float at a time, std::exp.
#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/sample_inl.h"
#include "kernels/cpu/simd_scalar.h"

namespace nibble::cpu {

const RowKernels kScalarRowKernels = {
    RmsNorm<ScalarVec>,     Gated<ScalarVec>,       RopeStore<ScalarVec>,
    AttendSplit<ScalarVec>, FoldSplit<ScalarVec>,   MaxOf<ScalarVec>,
    Find<ScalarVec>,        FindGreater<ScalarVec>, Softmax<ScalarVec>,
};

}  // namespace nibble::cpu
