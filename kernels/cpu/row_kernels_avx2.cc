// Compiled with -mavx2 -mfma -mf16c.
#include "kernels/cpu/row_kernels.h"

#if defined(__AVX2__)

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/sample_inl.h"
#include "kernels/cpu/simd_avx2.h"

namespace nibble::cpu {

const RowKernels kAvx2RowKernels = {
    RmsNorm<Avx2Vec>,     Gated<Avx2Vec>,       RopeStore<Avx2Vec>,
    AttendSplit<Avx2Vec>, FoldSplit<Avx2Vec>,   MaxOf<Avx2Vec>,
    Find<Avx2Vec>,        FindGreater<Avx2Vec>, Softmax<Avx2Vec>,
};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const RowKernels kAvx2RowKernels = {};
}  // namespace nibble::cpu

#endif
