// The table of row_kernels.h over one vector policy. Included by one translation unit per ISA.
#pragma once

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/kv_codec_inl.h"
#include "kernels/cpu/rms_norm_inl.h"
#include "kernels/cpu/rope_inl.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/sample_inl.h"

namespace nibble::cpu {
namespace {

template <class V, class Codec>
constexpr KvKernels kKvKernelsOf = {RopeStore<V, Codec>, AttendSplit<V, Codec>};

template <class V>
constexpr RowKernels kRowKernelsOf = {
    RmsNorm<V>,
    Gated<V>,
    FoldSplit<V>,
    MaxOf<V>,
    Find<V>,
    FindGreater<V>,
    Softmax<V>,
    kKvKernelsOf<V, F16Codec<V>>,
    kKvKernelsOf<V, Bf16Codec<V>>,
    kKvKernelsOf<V, I8Codec<V>>,
    kKvKernelsOf<V, E4m3Codec<V>>,
};

}  // namespace
}  // namespace nibble::cpu
