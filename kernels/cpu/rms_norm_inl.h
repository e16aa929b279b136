// Root mean square normalization (arXiv 1910.07467) and the gated activation SiLU(gate) * up (arXiv
// 2002.05202).
#pragma once

#include <cstdint>

namespace nibble::cpu {
namespace {

template <class V>
void RmsNorm(const float* x, float* residual, const float* weight, float epsilon, int32_t n,
             float* out) {
  using Reg = typename V::Reg;
  Reg squares = V::Zero();
  for (int32_t i = 0; i < n; i += V::kWidth) {
    Reg value = V::LoadPartial(x + i, n - i);
    if (residual != nullptr) {
      value = V::Add(V::LoadPartial(residual + i, n - i), value);
      V::StorePartial(residual + i, value, n - i);
    }
    squares = V::Fma(value, value, squares);
  }
  const float mean = V::ReduceAdd(squares) / static_cast<float>(n);
  const Reg scale = V::Set1(1.0f / __builtin_sqrtf(mean + epsilon));
  const float* source = residual != nullptr ? residual : x;
  for (int32_t i = 0; i < n; i += V::kWidth) {
    const Reg value = V::Mul(V::LoadPartial(source + i, n - i), scale);
    V::StorePartial(out + i, V::Mul(value, V::LoadPartial(weight + i, n - i)), n - i);
  }
}

// silu(gate) * up. Exp2 takes powers up to 128, which is infinity already.
template <class V>
[[gnu::always_inline]] inline typename V::Reg GatedOf(typename V::Reg gate, typename V::Reg up) {
  using Reg = typename V::Reg;
  const Reg power = V::Max(V::Set1(-128.0f), V::Mul(gate, V::Set1(1.44269504088896341f)));
  const Reg e = V::Exp2(V::Sub(V::Zero(), power));
  return V::Mul(V::Div(gate, V::Add(V::Set1(1.0f), e)), up);
}

template <class V>
void Gated(const float* gate, const float* up, int64_t stride, int32_t rows, int32_t cols,
           float* out, int64_t out_stride) {
  for (int32_t r = 0; r < rows; ++r, gate += stride, up += stride, out += out_stride) {
    int32_t i = 0;
    for (; i + V::kWidth <= cols; i += V::kWidth) {
      V::Store(out + i, GatedOf<V>(V::Load(gate + i), V::Load(up + i)));
    }
    if (i == cols) continue;
    const int32_t rest = cols - i;
    const auto last = GatedOf<V>(V::LoadPartial(gate + i, rest), V::LoadPartial(up + i, rest));
    V::StorePartial(out + i, last, rest);
  }
}

}  // namespace
}  // namespace nibble::cpu
