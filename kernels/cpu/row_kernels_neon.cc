// Compiled with -march=armv8.2-a+dotprod on arm64.
#include "kernels/cpu/row_kernels.h"

#if defined(__aarch64__)

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/sample_inl.h"
#include "kernels/cpu/simd_neon.h"

namespace nibble::cpu {

namespace {
using Vec = NeonVec;
}  // namespace

const RowKernels kNeonRowKernels = {
    RmsNorm<Vec>,
    Gated<Vec>,
    FoldSplit<Vec>,
    MaxOf<Vec>,
    Find<Vec>,
    FindGreater<Vec>,
    Softmax<Vec>,
    {RopeStore<Vec, F16Codec<Vec>>, AttendSplit<Vec, F16Codec<Vec>>},
    {RopeStore<Vec, Bf16Codec<Vec>>, AttendSplit<Vec, Bf16Codec<Vec>>},
    {RopeStore<Vec, I8Codec<Vec>>, AttendSplit<Vec, I8Codec<Vec>>},
    {RopeStore<Vec, E4m3Codec<Vec>>, AttendSplit<Vec, E4m3Codec<Vec>>},
};

}  // namespace nibble::cpu

#else  // not an arm64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kNeonRowKernels = {};
}  // namespace nibble::cpu

#endif
