// Attention's products in f32, and what any policy of products offers. Scores are products of rows
// of k (a dimension each, positions side by side), the weighted sum is one of rows of v (a position
// each, dimensions side by side): both take kSpan rows a step, times kSpan operands of a query row
// that lie in one float's place and are broadcast together.
#pragma once

#include <cstdint>

namespace nibble::cpu {
namespace {

template <class Vector>
struct F32Products {
  using V = Vector;
  using Reg = typename V::Reg;
  static constexpr int kSpan = 1;

  // Operands i .. i + kWidth - 1 of a row of q or of weights, which begins at `row`. In place:
  // `row` may be the floats x comes from, if they are stored from the first on.
  static void StoreOperands(float* row, int32_t i, Reg x) { V::Store(row + i, x); }
  // kSpan rows of floats as a step multiplies them.
  static Reg Join(Reg first, Reg) { return first; }
  // The same of codes, rows `stride` apart.
  template <class Codec>
  static Reg Load(const typename Codec::Code* p, int32_t) {
    return Codec::Load(p);
  }
  // Of joined rows the first, the others zeros.
  static Reg KeepFirstRow(Reg x) { return x; }
  // sum + the products of kSpan operands with kSpan rows.
  static Reg MultiplyAdd(Reg operands, Reg rows, Reg sum) { return V::Fma(operands, rows, sum); }
};

}  // namespace
}  // namespace nibble::cpu
