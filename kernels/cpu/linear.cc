#include "kernels/cpu/linear.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble {

// Quantized rows of x, tile after tile: all tiles have kTileTokens tokens but the last.
struct LinearScratch::Buffers {
  cpu::AlignedBytes tiles;
  int64_t capacity = 0;

  uint8_t* Reserve(int64_t size_bytes) {
    if (size_bytes > capacity) {
      tiles = cpu::AllocateAligned(size_bytes);
      capacity = size_bytes;
    }
    return tiles.get();
  }
};

LinearScratch::LinearScratch() : buffers_(std::make_unique<Buffers>()) {}
LinearScratch::~LinearScratch() = default;
LinearScratch::LinearScratch(LinearScratch&&) noexcept = default;
LinearScratch& LinearScratch::operator=(LinearScratch&&) noexcept = default;

namespace cpu {
namespace {

// Rows of x that a row block of weights meets before the next one is read: their tiles stay in the
// L2 cache.
constexpr int32_t kTokenBlock = 64;
// Multiply-adds that are worth a part of their own: about a microsecond, ten times the cost of
// claiming it.
constexpr int64_t kMinPartWork = 64 * 1024;
constexpr int kPartsPerThread = 4;
// Elements of x from which quantizing is split over the threads: less than that costs as much as a
// barrier.
constexpr int64_t kMinParallelQuantize = 16 * 1024;

const LinearKernels& KernelsOf(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512Vnni:
      return kAvx512Linear;
    case CpuIsa::kAvx2:
      return kAvx2Linear;
    default:
      return kScalarLinear;
  }
}

int NumParts(const ThreadPool& pool, int64_t units, int64_t work) {
  const int64_t wanted = std::min<int64_t>(work / kMinPartWork, pool.size() * kPartsPerThread);
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(units, 1)));
}

// A call, with what its parts share.
struct Call {
  const LinearKernels& kernels;
  const LinearParams& params;
  const uint8_t* tiles = nullptr;  // quantized x; null when no weight takes it
  bool halves = false;
  bool quantized = false;

  TileLayout LayoutAt(int32_t token) const {
    return {.tokens = std::min(kTileTokens, params.x.rows - token), .halves = halves};
  }
  // Bytes of one full tile; tiles follow each other, the last one shorter.
  int64_t TileBytes() const {
    const TileLayout full{.tokens = kTileTokens, .halves = halves};
    return static_cast<int64_t>(params.x.cols / kGroup) * full.group_bytes();
  }
};

void IntBlock(const Call& call, const WeightBlock& weight, OutputTile out, int32_t begin,
              int32_t end) {
  float* y = out.y;
  for (int32_t t = begin; t < end; t += kTileTokens) {
    out.y = y + t * out.stride;
    call.kernels.int_tile(weight, call.tiles + t / kTileTokens * call.TileBytes(), call.LayoutAt(t),
                          out);
  }
}

// f32 activations: a panel of the row block is dequantized into the L1 cache, then meets every row
// of the block of tokens. Sums wait in memory between panels, which rounds nothing.
void FloatBlock(const Call& call, const WeightBlock& weight, OutputTile out, int32_t begin,
                int32_t end) {
  alignas(64) float panel[kPanelCols * kBlockRows];
  alignas(64) float sums[kTokenBlock * kBlockRows] = {};
  const Tensor& x = call.params.x;
  for (int32_t k0 = 0; k0 < weight.cols; k0 += kPanelCols) {
    const int32_t k1 = std::min(k0 + kPanelCols, weight.cols);
    call.kernels.dequantize_panel(weight, k0, k1, panel);
    for (int32_t t = begin; t < end; t += kTileTokens) {
      call.kernels.panel_tile(panel, k1 - k0, x.f32_row(t) + k0, x.stride,
                              std::min(kTileTokens, end - t), sums + (t - begin) * kBlockRows);
    }
  }
  out.y += begin * out.stride;
  call.kernels.store_tile(sums, end - begin, out);
}

// Row blocks `first` .. `last` - 1 of the call, counted over all weights; y begins at `y_col` for
// weight 0.
void RunBlocks(const Call& call, int32_t first, int32_t last) {
  const LinearParams& params = call.params;
  for (int32_t begin = 0; begin < params.x.rows; begin += kTokenBlock) {
    const int32_t end = std::min(begin + kTokenBlock, params.x.rows);
    int32_t weight_first = 0;  // the number of the weight's first block
    int32_t y_col = 0;
    for (const PackedMatrix* packed : params.weights) {
      const auto& weight = static_cast<const CpuMatrix&>(*packed);
      const int32_t from = std::max(first - weight_first, 0);
      const int32_t to = std::min(last - weight_first, weight.num_blocks());
      for (int32_t b = from; b < to; ++b) {
        const int32_t col = y_col + b * kBlockRows;
        const OutputTile out{.y = params.y.f32() + col,
                             .stride = params.y.stride,
                             .bias = params.bias == nullptr ? nullptr : params.bias + col,
                             .num_rows = std::min(kBlockRows, weight.rows() - b * kBlockRows),
                             .accumulate = params.accumulate};
        const bool as_int = call.quantized && weight.is_int();
        (as_int ? IntBlock : FloatBlock)(call, weight.block(b), out, begin, end);
      }
      weight_first += weight.num_blocks();
      y_col += weight.rows();
    }
  }
}

void QuantizeRows(ThreadPool& pool, const Call& call, uint8_t* tiles) {
  const Tensor& x = call.params.x;
  const int32_t num_tiles = (x.rows + kTileTokens - 1) / kTileTokens;
  const auto quantize_tiles = [&](int32_t first, int32_t last) {
    for (int32_t r = first * kTileTokens; r < std::min(last * kTileTokens, x.rows); ++r) {
      const int32_t tile = r / kTileTokens;
      call.kernels.quantize_row(x.f32_row(r), x.cols, call.LayoutAt(tile * kTileTokens),
                                r % kTileTokens, tiles + tile * call.TileBytes());
    }
  };
  if (static_cast<int64_t>(x.rows) * x.cols < kMinParallelQuantize) {
    quantize_tiles(0, num_tiles);
    return;
  }
  const int32_t parts = std::min(num_tiles, pool.size() * kPartsPerThread);
  pool.Run(parts, [&](int part) {
    quantize_tiles(static_cast<int64_t>(num_tiles) * part / parts,
                   static_cast<int64_t>(num_tiles) * (part + 1) / parts);
  });
}

}  // namespace
}  // namespace cpu

void LinearCpu(ThreadPool& pool, LinearScratch& scratch, const LinearParams& params, CpuIsa isa,
               CpuActivations activations) {
  NIBBLE_CHECK(isa != CpuIsa::kAuto);
  NIBBLE_CHECK(params.x.dtype == DType::kF32 && params.y.dtype == DType::kF32);
  cpu::Call call{.kernels = cpu::KernelsOf(isa), .params = params};
  int64_t num_blocks = 0;
  int64_t num_rows = 0;
  for (const PackedMatrix* packed : params.weights) {
    const auto& weight = static_cast<const cpu::CpuMatrix&>(*packed);
    NIBBLE_CHECK(weight.cols() == params.x.cols);
    num_blocks += weight.num_blocks();
    num_rows += weight.rows();
    if (activations == CpuActivations::kF32 || !weight.is_int()) continue;
    call.quantized = true;
    call.halves = call.halves || weight.shape().group < cpu::kGroup;
  }
  NIBBLE_CHECK(num_rows == params.y.cols && params.x.rows == params.y.rows);
  if (call.quantized) {
    const int64_t tiles = (params.x.rows + cpu::kTileTokens - 1) / cpu::kTileTokens;
    uint8_t* bytes = scratch.buffers().Reserve(tiles * call.TileBytes());
    cpu::QuantizeRows(pool, call, bytes);
    call.tiles = bytes;
  }
  const int64_t work = num_rows * params.x.cols * params.x.rows;
  const int parts = cpu::NumParts(pool, num_blocks, work);
  pool.Run(parts, [&](int part) {
    cpu::RunBlocks(call, static_cast<int32_t>(num_blocks * part / parts),
                   static_cast<int32_t>(num_blocks * (part + 1) / parts));
  });
}

}  // namespace nibble
