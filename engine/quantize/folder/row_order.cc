#include "engine/quantize/folder/row_order.h"

#include <algorithm>
#include <vector>

#include "engine/weights/hf/hf_source.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

// Runs of `run` elements, one a row.
template <typename T>
void TurnRows(const std::vector<T>& from, int32_t rows, int32_t head_dim, std::vector<T>& to) {
  const auto run = static_cast<int64_t>(from.size()) / rows;
  for (int32_t row = 0; row < rows; ++row) {
    std::copy_n(from.begin() + row * run, run, to.begin() + HalfRowOf(row, head_dim) * run);
  }
}

}  // namespace

QuantizedWeight InHalvesOrder(const QuantizedWeight& weight, int32_t head_dim) {
  NIBBLE_CHECK(head_dim > 0 && weight.rows % head_dim == 0);
  QuantizedWeight turned = weight;
  TurnRows(weight.codes, weight.rows, head_dim, turned.codes);
  if (weight.tile.rows > 1) {  // scales of whole heads stay where they are
    NIBBLE_CHECK(weight.tile.rows % head_dim == 0);
    return turned;
  }
  TurnRows(weight.params, weight.rows, head_dim, turned.params);
  TurnRows(weight.maxima, weight.rows, head_dim, turned.maxima);
  return turned;
}

}  // namespace nibble::quantize
