// Starts the tiled linear's kernel: its parameters, and the variant for a call's kind of codes and
// number of rows. tiled_linear_*.cu compile one of the templates at the end each.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {
namespace {

template <class Half>
CodeConstants ConstantsOf(const TiledLayout& layout) {
  CodeConstants constants = {};
  const int zero = layout.codes == TiledCodes::kInt8 ? 128 : layout.zero;
  const uint32_t base = Half::HostFromFloat(-(Half::kCodeBase + static_cast<float>(zero)));
  constants.minus_base = base | base << 16;
  for (int plane = 0; plane < 2; ++plane) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = Half::HostFromFloat(layout.table[i]) >> (8 * plane) & 0xFF;
      constants.table[plane][i / 4] |= byte << (i % 4 * 8);
    }
  }
  return constants;
}

// The matrices, their blocks of the grid and their places in the workspace; returns the number of
// blocks.
inline int32_t FillWeights(const TiledLinear& call, Params& p) {
  auto* counters = static_cast<uint8_t*>(call.workspace);
  uint8_t* results = counters + TiledCounterBytes(call);
  int32_t blocks = 0;
  for (int32_t i = 0; i < call.num_weights; ++i) {
    const TiledWeight& weight = call.weights[i];
    const TiledLayout& layout = weight.layout;
    WeightParams& w = p.weights[i];
    w.tiles = static_cast<const uint8_t*>(weight.tiles);
    w.row_scales = reinterpret_cast<const float*>(w.tiles + RowScalesAt(layout));
    w.y = weight.y;
    w.bias = weight.bias;
    w.partials = reinterpret_cast<float*>(results);
    w.counters = reinterpret_cast<uint32_t*>(counters);
    w.rows = layout.rows;
    w.row_tiles = RowTiles(layout);
    w.splits = TiledSplits(layout);
    w.first_block = blocks;
    blocks += w.row_tiles * w.splits;
    counters += TiledCounterBytes(layout, call.rows);
    results += TiledResultBytes(layout, call.rows);
  }
  return blocks;
}

template <class V>
cudaError_t Start(const TiledLinear& call, cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  Params p = {};
  const auto blocks = static_cast<uint32_t>(FillWeights(call, p));
  p.num_weights = call.num_weights;
  p.x = static_cast<const uint16_t*>(call.x);
  p.group_sums = call.group_sums;
  p.x_stride = call.x_stride;
  p.y_stride = call.y_stride;
  p.rows = call.rows;
  p.sums_stride = GroupSumsStride(call.rows);
  p.w_cols = layout.cols;
  p.group = layout.group;
  p.accumulate = call.accumulate;
  p.f32_y = call.f32_y;
  p.early_weights = call.early_weights;
  p.tile_bytes = TileBytes(layout);
  p.scale_bytes = TileScaleBytes(layout);
  p.codes = ConstantsOf<typename V::Half>(layout);
  const int groups = V::kCols / layout.group;
  p.stage_bytes = p.tile_bytes + V::kRows * V::kXBytes + (V::kOffsets ? groups * V::kRows * 4 : 0);
  const int tile_bytes = V::kRows * kSumTileStride * 4, stage_bytes = V::kStages * p.stage_bytes;
  const auto shared = static_cast<size_t>(tile_bytes > stage_bytes ? tile_bytes : stage_bytes);
  const dim3 grid(blocks, static_cast<uint32_t>((call.rows + V::kRows - 1) / V::kRows));
  return Launch(TiledKernel<V>, {grid, dim3(kThreads), shared, stream, call.early_weights}, p);
}

template <class Half, class Codes, TiledScales kScales, bool kOffsets = false>
cudaError_t StartForRows(const TiledLinear& call, cudaStream_t stream) {
  if (call.rows <= 8) return Start<Variant<Half, Codes, kScales, kOffsets, 1>>(call, stream);
  if (call.rows <= 16) return Start<Variant<Half, Codes, kScales, kOffsets, 2>>(call, stream);
  if (call.rows <= 32) return Start<Variant<Half, Codes, kScales, kOffsets, 4>>(call, stream);
  return Start<Variant<Half, Codes, kScales, kOffsets, 8>>(call, stream);
}

template <class Half, TiledScales kScales>
cudaError_t Start4BitWith(const TiledLinear& call, cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  if (layout.codes == TiledCodes::kLut4)
    return StartForRows<Half, Lut4Weights, kScales>(call, stream);
  if (layout.offsets) return StartForRows<Half, Int4Weights, kScales, true>(call, stream);
  return StartForRows<Half, Int4Weights, kScales>(call, stream);
}

template <class Half, class Codes>
cudaError_t StartFp8With(const TiledLinear& call, cudaStream_t stream) {
  if (call.weights[0].layout.scales == TiledScales::kBlock)
    return StartForRows<Half, Codes, TiledScales::kBlock>(call, stream);
  return StartForRows<Half, Codes, TiledScales::kRow>(call, stream);
}

// kInt4 and kLut4.
template <class Half>
cudaError_t Start4Bit(const TiledLinear& call, cudaStream_t stream) {
  return call.weights[0].layout.scales == TiledScales::kF32
             ? Start4BitWith<Half, TiledScales::kF32>(call, stream)
             : Start4BitWith<Half, TiledScales::kF16>(call, stream);
}

template <class Half>
cudaError_t StartInt8(const TiledLinear& call, cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  if (layout.scales == TiledScales::kRow)
    return StartForRows<Half, Int8Weights, TiledScales::kRow>(call, stream);
  if (layout.offsets) return StartForRows<Half, Int8Weights, TiledScales::kF32, true>(call, stream);
  if (layout.scales == TiledScales::kF32)
    return StartForRows<Half, Int8Weights, TiledScales::kF32>(call, stream);
  return StartForRows<Half, Int8Weights, TiledScales::kF16>(call, stream);
}

template <class Half>
cudaError_t StartFp8(const TiledLinear& call, cudaStream_t stream) {
  return call.weights[0].layout.codes == TiledCodes::kE5m2
             ? StartFp8With<Half, E5m2Weights>(call, stream)
             : StartFp8With<Half, E4m3Weights>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda
