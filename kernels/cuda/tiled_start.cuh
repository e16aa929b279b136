// Starts a kernel of the tiled linear: its parameters, and the variant for a call's kind of codes.
// `Kernels` starts the one for a call's number of rows (tiled_linear.cuh, tiled_groups.cuh).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/cuda/tiled_params.cuh"

namespace nibble::cuda {
namespace {

template <class Half>
CodeConstants ConstantsOf(const TiledLayout& layout) {
  CodeConstants constants = {};
  const int zero = layout.codes == TiledCodes::kInt8 ? 128 : layout.zero;
  const auto twice = [](float value) {
    const uint32_t half = Half::HostFromFloat(value);
    return half | half << 16;
  };
  constants.minus_base = twice(-(Half::kCodeBase + static_cast<float>(zero)));
  constants.minus_upper = twice(-(Half::kCodeBase / 16 + static_cast<float>(zero)));
  for (int plane = 0; plane < 2; ++plane) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = Half::HostFromFloat(layout.table[i]) >> (8 * plane) & 0xFF;
      constants.table[plane][i / 4] |= byte << (i % 4 * 8);
    }
  }
  return constants;
}

inline void FillWeights(const TiledLinear& call, Params& p) {
  p.num_weights = call.num_weights;
  int32_t row_tile = 0;
  for (int32_t i = 0; i < call.num_weights; ++i) {
    const TiledWeight& weight = call.weights[i];
    WeightParams& w = p.weights[i];
    w.tiles = static_cast<const uint8_t*>(weight.tiles);
    w.row_scales = reinterpret_cast<const float*>(w.tiles + RowScalesAt(weight.layout));
    w.y = weight.y;
    w.bias = weight.bias;
    w.rows = weight.layout.rows;
    w.first_row_tile = row_tile;
    row_tile += RowTiles(weight.layout);
  }
}

// How many stages a block of warp groups has, and where x lies.
template <class V>
cudaError_t PlanGroups(const TiledLinear& call, Params& p) {
  constexpr int kPattern = 1024;  // what products of warp groups have every stage begin at
  p.stage_bytes = (p.stage_bytes + kPattern - 1) / kPattern * kPattern;
  constexpr int kLeast = 2;  // one is loaded while the other is multiplied
  const int most = call.most_stages > 0 ? std::max(call.most_stages, kLeast) : V::kMostStages;
  p.stages = std::min(most, V::kSharedBytes / (p.stage_bytes + kStageBarrierBytes));
  return MakeTensorMap({.values = call.x,
                        .rows = call.rows,
                        .cols = p.w_cols,
                        .stride = call.x_stride,
                        .box_rows = V::kRows},
                       &p.x_map);
}

template <class V>
cudaError_t Start(const TiledLinear& call, void (*kernel)(Params), cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  Params p = {};
  FillWeights(call, p);
  p.cut = CutOf(call);
  p.counters = static_cast<uint32_t*>(call.workspace);
  p.parts =
      reinterpret_cast<float*>(static_cast<uint8_t*>(call.workspace) + TiledCounterBytes(call));
  p.x = static_cast<const uint16_t*>(call.x);
  p.group_sums = call.group_sums;
  p.x_stride = call.x_stride;
  p.y_stride = call.y_stride;
  p.rows = call.rows;
  p.sums_stride = GroupSumsStride(call.rows);
  p.w_cols = layout.cols;
  p.group = layout.group;
  p.group_shift = std::countr_zero(static_cast<uint32_t>(layout.group));
  p.accumulate = call.accumulate;
  p.f32_y = call.f32_y;
  p.early_weights = call.early_weights;
  p.tile_bytes = TileBytes(layout);
  p.scale_bytes = TileScaleBytes(layout);
  p.codes = ConstantsOf<typename V::Half>(layout);
  const int groups = V::kCols / layout.group;
  p.stage_bytes = V::kXStageBytes + p.tile_bytes + (V::kOffsets ? groups * V::kRows * 4 : 0);
  p.stages = V::kStages;
  size_t shared = 0;
  if constexpr (V::kGroups) {
    if (const cudaError_t error = PlanGroups<V>(call, p); error != cudaSuccess) return error;
    shared = static_cast<size_t>(p.stages) * kStageBarrierBytes;
  }
  shared += static_cast<size_t>(p.stages) * static_cast<size_t>(p.stage_bytes);
  const dim3 grid(static_cast<uint32_t>((call.rows + V::kRows - 1) / V::kRows),
                  static_cast<uint32_t>((p.cut.stretches + V::kStretches - 1) / V::kStretches));
  return Launch(kernel, {grid, dim3(V::kThreads), shared, stream, call.early_weights}, p);
}

template <class Kernels, class Half, TiledScales kScales>
cudaError_t Start4BitWith(const TiledLinear& call, cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  if (layout.codes == TiledCodes::kLut4)
    return Kernels::template Start<Half, Lut4Weights, kScales>(call, stream);
  if (layout.offsets)
    return Kernels::template Start<Half, Int4Weights, kScales, true>(call, stream);
  return Kernels::template Start<Half, Int4Weights, kScales>(call, stream);
}

template <class Kernels, class Half, class Codes>
cudaError_t StartFp8With(const TiledLinear& call, cudaStream_t stream) {
  if (call.weights[0].layout.scales == TiledScales::kBlock)
    return Kernels::template Start<Half, Codes, TiledScales::kBlock>(call, stream);
  return Kernels::template Start<Half, Codes, TiledScales::kRow>(call, stream);
}

// kInt4 and kLut4.
template <class Kernels, class Half>
cudaError_t Start4Bit(const TiledLinear& call, cudaStream_t stream) {
  return call.weights[0].layout.scales == TiledScales::kF32
             ? Start4BitWith<Kernels, Half, TiledScales::kF32>(call, stream)
             : Start4BitWith<Kernels, Half, TiledScales::kF16>(call, stream);
}

template <class Kernels, class Half>
cudaError_t StartInt8(const TiledLinear& call, cudaStream_t stream) {
  const TiledLayout& layout = call.weights[0].layout;
  if (layout.scales == TiledScales::kRow)
    return Kernels::template Start<Half, Int8Weights, TiledScales::kRow>(call, stream);
  if (layout.offsets)
    return Kernels::template Start<Half, Int8Weights, TiledScales::kF32, true>(call, stream);
  if (layout.scales == TiledScales::kF32)
    return Kernels::template Start<Half, Int8Weights, TiledScales::kF32>(call, stream);
  return Kernels::template Start<Half, Int8Weights, TiledScales::kF16>(call, stream);
}

template <class Kernels, class Half>
cudaError_t StartFp8(const TiledLinear& call, cudaStream_t stream) {
  return call.weights[0].layout.codes == TiledCodes::kE5m2
             ? StartFp8With<Kernels, Half, E5m2Weights>(call, stream)
             : StartFp8With<Kernels, Half, E4m3Weights>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda
