#include "engine/quantize/methods/round_to_nearest.h"

#include <algorithm>
#include <vector>

#include "engine/quantize/methods/double_quantization.h"
#include "engine/quantize/methods/parallel.h"

namespace nibble::quantize {
namespace {

constexpr int64_t kRowsAtOnce = 16;

// The elements of one tile, in row order.
std::vector<float> Gather(const MatrixF& weight, Tile tile, int32_t down, int32_t across) {
  const auto block =
      weight.block(down * int64_t{tile.rows}, across * int64_t{tile.cols},
                   std::min<int64_t>(tile.rows, weight.rows() - down * int64_t{tile.rows}),
                   std::min<int64_t>(tile.cols, weight.cols() - across * int64_t{tile.cols}));
  std::vector<float> values;
  values.reserve(block.size());
  for (int64_t n = 0; n < block.rows(); ++n) {
    for (int64_t k = 0; k < block.cols(); ++k) values.push_back(block(n, k));
  }
  return values;
}

void QuantizeTileScales(QuantizedWeight& weight) {
  for (const GroupParams& params : weight.params) weight.maxima.push_back(params.scale);
  const std::vector<float> scales = RestoreScales(QuantizeScales(weight.maxima));
  for (size_t i = 0; i < scales.size(); ++i) weight.params[i].scale = scales[i];
}

}  // namespace

QuantizedWeight FitTiles(const MatrixF& weight, const Scheme& scheme, int threads) {
  const auto rows = static_cast<int32_t>(weight.rows()), cols = static_cast<int32_t>(weight.cols());
  QuantizedWeight quantized = MakeQuantizedWeight(scheme, rows, cols);
  const Grid grid(scheme);
  const Tile tile = quantized.tile;
  const int64_t across = (cols + tile.cols - 1) / tile.cols;
  ParallelRanges(static_cast<int64_t>(quantized.params.size()), kRowsAtOnce, threads,
                 [&](int64_t first, int64_t last) {
                   for (int64_t i = first; i < last; ++i) {
                     quantized.params[i] =
                         grid.Fit(Gather(weight, tile, static_cast<int32_t>(i / across),
                                         static_cast<int32_t>(i % across)));
                   }
                 });
  return quantized;
}

void RoundInto(const MatrixF& weight, QuantizedWeight& quantized, int threads) {
  const Grid grid(quantized.scheme);
  ParallelRanges(quantized.rows, kRowsAtOnce, threads, [&](int64_t first, int64_t last) {
    for (auto n = static_cast<int32_t>(first); n < last; ++n) {
      int16_t* code = &quantized.codes[static_cast<size_t>(n) * quantized.cols];
      const absl::Span<const GroupParams> params = quantized.RowParams(n);
      for (int32_t k = 0; k < quantized.cols; ++k) {
        code[k] = static_cast<int16_t>(grid.Code(weight(n, k), params[quantized.GroupOf(k)]));
      }
    }
  });
}

QuantizedWeight RoundToNearest(const MatrixF& weight, const Scheme& scheme, int threads) {
  QuantizedWeight quantized = FitTiles(weight, scheme, threads);
  RoundInto(weight, quantized, threads);
  if (scheme.double_quantized) QuantizeTileScales(quantized);
  return quantized;
}

}  // namespace nibble::quantize
