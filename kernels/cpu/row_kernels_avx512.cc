// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c.
#include "kernels/cpu/row_kernels.h"

#if defined(__AVX512BW__)

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/sample_inl.h"
#include "kernels/cpu/simd_avx512.h"

namespace nibble::cpu {

const RowKernels kAvx512RowKernels = {
    RmsNorm<Avx512Vec>,     Gated<Avx512Vec>,       RopeStore<Avx512Vec>,
    AttendSplit<Avx512Vec>, FoldSplit<Avx512Vec>,   MaxOf<Avx512Vec>,
    Find<Avx512Vec>,        FindGreater<Avx512Vec>, Softmax<Avx512Vec>,
};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kAvx512RowKernels = {};
}  // namespace nibble::cpu

#endif
