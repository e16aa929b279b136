// The table of row_kernels.h over one vector policy, and attention over one of products. Included
// by one translation unit per ISA.
#pragma once

#include "kernels/cpu/attention_f32_inl.h"
#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/kv_codec_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/sample_inl.h"

namespace nibble::cpu {
namespace {

template <class P, class Codec>
constexpr KvKernels kKvKernelsOf = {RopeStore<typename P::V, Codec>, AttendSplit<P, Codec>};

template <class V, class P = F32Products<V>>
constexpr RowKernels kRowKernelsOf = {
    RmsNorm<V>,
    Gated<V>,
    FoldSplit<V>,
    WeightedMean<V>,
    MaxOf<V>,
    Find<V>,
    FindGreater<V>,
    Softmax<V>,
    kKvKernelsOf<P, F16Codec<V>>,
    kKvKernelsOf<P, Bf16Codec<V>>,
    kKvKernelsOf<P, I8Codec<V>>,
    kKvKernelsOf<P, E4m3Codec<V>>,
};

}  // namespace
}  // namespace nibble::cpu
