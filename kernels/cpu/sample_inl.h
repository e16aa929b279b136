// The passes over a whole row of logits that drawing a token needs (sample.cc has the rest).
#pragma once

#include <cstdint>

#include "kernels/cpu/row_kernels.h"

namespace nibble::cpu {
namespace {

template <class V>
float MaxOf(const float* x, int32_t n, bool* nan) {
  const typename V::Reg lowest = V::Set1(-__builtin_inff());
  typename V::Reg top = lowest;
  bool found = false;
  for (int32_t i = 0; i < n; i += V::kWidth) {
    const typename V::Reg value = V::KeepFirst(V::LoadPartial(x + i, n - i), n - i, lowest);
    found |= V::AnyNan(value);
    top = V::Max(top, value);
  }
  *nan = found;
  return V::ReduceMax(top);
}

template <class V>
int32_t Find(const float* x, int32_t n, float value) {
  const typename V::Reg wanted = V::Set1(value);
  int32_t i = 0;
  while (i + V::kWidth <= n && !V::AnyEqual(V::Load(x + i), wanted)) i += V::kWidth;
  while (i < n && x[i] != value) ++i;
  return i;
}

template <class V>
int32_t FindGreater(const float* x, int32_t from, int32_t n, float value) {
  const typename V::Reg bound = V::Set1(value);
  int32_t i = from;
  while (i + V::kWidth <= n && !V::AnyGreater(V::Load(x + i), bound)) i += V::kWidth;
  while (i < n && !(x[i] > value)) ++i;
  return i;
}

template <class V>
double Softmax(const float* x, int32_t n, float max, float temperature, float* p, float* run_sums) {
  const typename V::Reg shift = V::Set1(max), divisor = V::Set1(temperature);
  double total = 0;
  for (int32_t begin = 0; begin < n; begin += kSoftmaxRun) {
    const int32_t end = begin + kSoftmaxRun < n ? begin + kSoftmaxRun : n;
    typename V::Reg sum = V::Zero();
    for (int32_t i = begin; i < end; i += V::kWidth) {
      const typename V::Reg value = V::Sub(V::LoadPartial(x + i, end - i), shift);
      const typename V::Reg e = V::KeepFirst(V::Exp(V::Div(value, divisor)), end - i, V::Zero());
      if (p != nullptr) V::StorePartial(p + i, e, end - i);
      sum = V::Add(sum, e);
    }
    const float run = V::ReduceAdd(sum);
    if (run_sums != nullptr) *run_sums++ = run;
    total += run;
  }
  return total;
}

}  // namespace
}  // namespace nibble::cpu
