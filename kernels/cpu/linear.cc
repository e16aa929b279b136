#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble {

// What a call works in, each part grown to the largest call seen.
struct LinearScratch::Buffers {
  struct Part {
    cpu::AlignedBytes bytes;
    int64_t capacity = 0;

    uint8_t* Reserve(int64_t size_bytes) {
      if (size_bytes > capacity) {
        bytes = cpu::AllocateAligned(size_bytes);
        capacity = size_bytes;
      }
      return bytes.get();
    }
  };
  Part tiles;   // quantized rows of x, tile after tile: all have kTileTokens tokens but the last;
                // then what they leave over, laid out the same
  Part normed;  // normalized rows: of all of x where a weight needs them, else a tile of each part
  Part rests;   // the rests of a tile of each part
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
// Tiles of tokens that are worth reading the weights once more for: 16 tokens at 150 GMAC/s take
// 6 GB/s of 4-bit weights, a fraction of what a core gets from the last cache.
constexpr int32_t kMinGroupTiles = 2;
// Of the first tile that a part reads: a row of 2048 columns; from then on they come in time.
constexpr int64_t kMostPrefetched = 4096;
// Elements of x that are worth a part of their own when its rows are prepared: about a microsecond,
// what a barrier costs.
constexpr int64_t kMinPreparedPart = 4 * 1024;

const LinearKernels& KernelsOf(CpuIsa isa) {
  switch (isa) {
    // BF16's product (VDPBF16PS) would round the f32 activations that bf16 weights are promised.
    case CpuIsa::kAvx512VnniBf16:
    case CpuIsa::kAvx512Vnni:
      return kAvx512VnniLinear;
    case CpuIsa::kAvxVnni:
      return kAvxVnniLinear;
    case CpuIsa::kAvx512:
      return kAvx512Linear;
    case CpuIsa::kAvx2:
      return kAvx2Linear;
    case CpuIsa::kNeonDotprod:
      return kNeonLinear;
    case CpuIsa::kScalar:
    case CpuIsa::kAuto:
      break;
  }
  return kScalarLinear;
}

int NumParts(const ThreadPool& pool, int64_t units, int64_t work) {
  const int64_t wanted = std::min<int64_t>(work / kMinPartWork, pool.size() * kPartsPerThread);
  return static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(units, 1)));
}

// A call, with what its parts share.
struct Call {
  const LinearKernels& kernels;
  const LinearParams& params;
  const RowKernels* row_kernels = nullptr;
  Tensor x;                        // normalized already
  const uint8_t* tiles = nullptr;  // quantized x; null when no weight takes it
  int planes = 1;                  // of quantized x: 2 for CpuActivations::kInt16
  bool halves = false;
  bool words = false;
  bool quantized = false;  // some weight takes quantized rows
  bool floats = false;     // some weight takes f32 rows

  // Of a whole tile and of the last one. Made once, for the same reason as IntBlock's.
  TileLayout whole = {}, last = {};

  void SetLayouts() {
    whole = {.tokens = kTileTokens, .halves = halves, .word_groups = words ? x.cols / kGroup : 0};
    last = whole;
    last.tokens = x.rows % kTileTokens;
  }
  const TileLayout& LayoutAt(int32_t token) const {
    return token + kTileTokens <= x.rows ? whole : last;
  }
  // Bytes of a whole tile; tiles follow each other, the last one shorter.
  int64_t TileBytes() const { return whole.tile_bytes(x.cols / kGroup); }
  int64_t PlaneBytes() const { return (x.rows + kTileTokens - 1) / kTileTokens * TileBytes(); }
};

// `out` is changed where it stands: a copy of fields just written, all at once, waits for all
// stores before.
void IntBlock(const Call& call, const WeightBlock& weight, OutputTile& out, int32_t begin,
              int32_t end) {
  float* const y = out.y;
  const float* const bias = out.bias;
  const bool accumulate = out.accumulate;
  for (int32_t t = begin; t < end; t += kTileTokens) {
    out.y = y + t * out.stride;
    out.bias = bias;
    out.accumulate = accumulate;
    const uint8_t* tile = call.tiles + t / kTileTokens * call.TileBytes();
    for (int plane = 0; plane < call.planes; ++plane, tile += call.PlaneBytes()) {
      call.kernels.int_tile(weight, tile, call.LayoutAt(t), out);
      out.bias = nullptr;
      out.accumulate = true;
    }
  }
}

// f32 activations: a panel of the row block is dequantized into the L1 cache, then meets every row
// of the block of tokens. Sums wait in memory between panels, which rounds nothing.
void FloatBlock(const Call& call, const WeightBlock& weight, OutputTile out, int32_t begin,
                int32_t end) {
  alignas(64) float panel[kPanelCols * kBlockRows];
  alignas(64) float sums[kTokenBlock * kBlockRows] = {};
  const Tensor& x = call.x;
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

// What a part of RunParts is about.
struct Share {
  int32_t first, last;  // row blocks, counted over all weights
  int32_t begin, end;   // tokens
};

void WeightBlockRows(const Call& call, const CpuMatrix& weight, int32_t block, OutputTile& out,
                     const Share& share) {
  out.num_rows = std::min(kBlockRows, weight.rows() - block * kBlockRows);
  const WeightBlock at = weight.block(block);
  if (call.quantized && weight.is_int()) {
    IntBlock(call, at, out, share.begin, share.end);
  } else {
    FloatBlock(call, at, out, share.begin, share.end);
  }
}

void RunBlocks(const Call& call, const Share& share) {
  const LinearParams& params = call.params;
  int32_t weight_first = 0;  // the number of the weight's first block
  int32_t y_col = 0;
  for (const PackedMatrix* packed : params.weights) {
    const auto& weight = static_cast<const CpuMatrix&>(*packed);
    const int32_t from = std::max(share.first - weight_first, 0);
    const int32_t to = std::min(share.last - weight_first, weight.num_blocks());
    for (int32_t b = from; b < to; ++b) {
      const int32_t col = y_col + b * kBlockRows;
      OutputTile out{.y = params.y.f32() + col,
                     .stride = params.y.stride,
                     .bias = params.bias == nullptr ? nullptr : params.bias + col,
                     .accumulate = params.accumulate};
      WeightBlockRows(call, weight, b, out, share);
    }
    weight_first += weight.num_blocks();
    y_col += weight.rows();
  }
}

// As above for a gated call: block b is block b of the gate and of the up weight, and their
// products meet in the L1 cache. With one tile of tokens the weights are what moves, so runs of
// blocks keep their streams long; with more, each of the two blocks stays in L1 while all tiles
// pass.
void RunGatedBlocks(const Call& call, const Share& share) {
  const auto [first, last, begin, end] = share;
  constexpr int32_t kBlocksOfOneTile = 8;
  const LinearParams& params = call.params;
  const auto& gate_weight = static_cast<const CpuMatrix&>(*params.weights[0]);
  const auto& up_weight = static_cast<const CpuMatrix&>(*params.weights[1]);
  const int32_t blocks_at_once = end - begin <= kTileTokens ? kBlocksOfOneTile : 1;
  const int32_t stride = blocks_at_once * kBlockRows;
  static_assert(kTileTokens * kBlocksOfOneTile == kTokenBlock);
  alignas(64) float gate[kTokenBlock * kBlockRows], up[kTokenBlock * kBlockRows];
  for (int32_t b = first; b < last; b += blocks_at_once) {
    const int32_t b_end = std::min(b + blocks_at_once, last);
    const int32_t col = b * kBlockRows;
    const int32_t num_cols = std::min(b_end * kBlockRows, gate_weight.rows()) - col;
    const auto multiply = [&](const CpuMatrix& weight, float* to) {
      float* const y = to - static_cast<int64_t>(begin) * stride;  // blocks index by token
      for (int32_t i = b; i < b_end; ++i) {
        OutputTile out{.y = y + (i - b) * kBlockRows, .stride = stride};
        WeightBlockRows(call, weight, i, out, share);
      }
    };
    multiply(gate_weight, gate);
    if (blocks_at_once == 1) {  // the lines of y come while the other product is computed
      for (int32_t t = begin; t < end; ++t) __builtin_prefetch(params.y.f32_row(t) + col, 1);
    }
    multiply(up_weight, up);
    call.row_kernels->gated(gate, up, stride, end - begin, num_cols, params.y.f32_row(begin) + col,
                            params.y.stride);
  }
}

// rests = x - what the tile's codes of it say, NaN where their scale is, for columns k0 .. k1 - 1.
void RestsOfTile(const float* x, int64_t x_stride, int32_t k0, int32_t k1, const TileLayout& layout,
                 const uint8_t* tile, float* rests, int64_t rests_stride) {
  for (int32_t k = k0; k < k1; k += kGroup) {
    const uint8_t* const group = tile + k / kGroup * layout.group_bytes();
    for (int32_t t = 0; t < layout.tokens; ++t) {
      int8_t codes[kGroup];
      float scale;
      std::memcpy(codes, group + t * kGroup, sizeof(codes));
      std::memcpy(&scale, group + layout.scale_at() + 4 * t, sizeof(scale));
      for (int32_t i = 0; i < kGroup; ++i) {
        rests[t * rests_stride + k + i] = x[t * x_stride + k + i] - scale * codes[i];
      }
    }
  }
}

// Where the rows of a call are prepared.
struct Prepared {
  float* normed = nullptr;  // rows of x normalized: all of them, or a tile of each part
  float* rests = nullptr;   // for two planes, a tile of each part
  uint8_t* tiles = nullptr;
};

// Columns k0 .. k1 - 1 of the tile that begins with row `first`: all columns if there is a norm.
void PrepareTile(const Call& call, int32_t first, int32_t k0, int32_t k1, int32_t part,
                 const Prepared& to) {
  const LinearParams& params = call.params;
  const int64_t cols = call.x.cols;
  const TileLayout& layout = call.LayoutAt(first);
  const float* x = params.x.f32_row(first);
  int64_t stride = params.x.stride;
  if (params.norm_weight != nullptr) {
    float* const normed = to.normed + (call.floats ? first : part * kTileTokens) * cols;
    for (int32_t t = 0; t < layout.tokens; ++t) {
      call.row_kernels->rms_norm(x + t * stride, nullptr, params.norm_weight, params.norm_epsilon,
                                 call.x.cols, normed + t * cols);
    }
    x = normed;
    stride = cols;
  }
  if (!call.quantized) return;
  uint8_t* const tile = to.tiles + first / kTileTokens * call.TileBytes();
  call.kernels.quantize_tile(x, stride, k0, k1, layout, tile);
  if (call.planes == 1) return;
  float* const rests = to.rests + part * kTileTokens * cols;
  RestsOfTile(x, stride, k0, k1, layout, tile, rests, cols);
  call.kernels.quantize_tile(rests, cols, k0, k1, layout, tile + call.PlaneBytes());
}

// Normalizes and quantizes rows of x, as far as the call needs it. A part takes whole tiles, or,
// where these are few, some columns of one: two threads that wrote the same tile's tokens would
// take the lines of its scales from each other.
void PrepareRows(ThreadPool& pool, Call& call, LinearScratch::Buffers& buffers) {
  const bool norm = call.params.norm_weight != nullptr;
  if ((!norm && !call.quantized) || call.x.rows == 0) return;
  const int64_t rows = call.x.rows, cols = call.x.cols;
  const int64_t most =
      std::min<int64_t>(pool.size() * kPartsPerThread, rows * cols / kMinPreparedPart);
  const int64_t tiles = (rows + kTileTokens - 1) / kTileTokens;
  constexpr int64_t kPairCols = 2 * kGroup;  // words are made of two groups
  const int64_t pairs = (cols + kPairCols - 1) / kPairCols;
  const int64_t splits = norm ? 1 : std::clamp<int64_t>(most / tiles, 1, pairs);
  const int64_t pieces = tiles * splits;
  const auto parts = static_cast<int32_t>(std::clamp<int64_t>(most, 1, pieces));
  const int64_t tile_of_each = parts * kTileTokens * cols * 4;
  Prepared to;
  if (norm) {
    const int64_t bytes = call.floats ? rows * cols * 4 : tile_of_each;
    to.normed = reinterpret_cast<float*>(buffers.normed.Reserve(bytes));
  }
  if (call.planes > 1) to.rests = reinterpret_cast<float*>(buffers.rests.Reserve(tile_of_each));
  if (call.quantized) to.tiles = buffers.tiles.Reserve(call.planes * call.PlaneBytes());
  pool.Run(parts, [&](int part) {
    const int64_t end = pieces * (part + 1) / parts;
    for (int64_t piece = pieces * part / parts; piece < end; ++piece) {
      const auto first = static_cast<int32_t>(piece / splits * kTileTokens);
      const int64_t split = piece % splits;
      const auto k0 = static_cast<int32_t>(pairs * split / splits * kPairCols);
      const auto k1 =
          static_cast<int32_t>(std::min(pairs * (split + 1) / splits * kPairCols, cols));
      PrepareTile(call, first, k0, k1, part, to);
    }
  });
  call.tiles = to.tiles;
  if (norm && call.floats) {
    call.x.data = to.normed;
    call.x.stride = call.x.cols;
  }
}

// The lines that a part reads first of its tile: the caller's core may have them all, and one after
// the other each takes as long as some columns of a row block.
void PrefetchTile(const Call& call, int32_t first) {
  if (call.tiles == nullptr) return;
  const uint8_t* const tile = call.tiles + first / kTileTokens * call.TileBytes();
  const int64_t bytes = call.LayoutAt(first).tile_bytes(call.x.cols / kGroup);
  for (int64_t i = 0; i < std::min(bytes, kMostPrefetched); i += 64) __builtin_prefetch(tile + i);
}

// The tokens are shared out in groups, the row blocks among the parts of each group. A group is
// what one thread prepared and, where the next op shares out rows in order, what it reads again:
// from its own cache. More groups read the weights more often. On several NUMA nodes there is one,
// since each node has the weights of its own row blocks.
void RunParts(ThreadPool& pool, const Call& call, int32_t num_blocks, int64_t work) {
  const auto run_blocks = call.params.gated ? RunGatedBlocks : RunBlocks;
  const int32_t rows = call.x.rows, tiles = (rows + kTileTokens - 1) / kTileTokens;
  const int32_t most_groups = pool.num_nodes() > 1 ? 1 : pool.size();
  const int32_t groups = std::clamp(tiles / kMinGroupTiles, 1, most_groups);
  const int32_t parts = std::max(NumParts(pool, num_blocks, work) / groups, 1);  // of a group
  pool.Run(groups * parts, [&](int part) {
    const auto share = [](int64_t whole, int32_t i, int32_t n) {
      return static_cast<int32_t>(whole * i / n);
    };
    const int32_t group = part / parts, i = part % parts;
    const int32_t first = share(num_blocks, i, parts), last = share(num_blocks, i + 1, parts);
    const int32_t end = std::min(share(tiles, group + 1, groups) * kTileTokens, rows);
    const int32_t begin = share(tiles, group, groups) * kTileTokens;
    PrefetchTile(call, begin);
    for (int32_t t = begin; t < end; t += kTokenBlock) {
      run_blocks(call,
                 {.first = first, .last = last, .begin = t, .end = std::min(t + kTokenBlock, end)});
    }
  });
}

}  // namespace
}  // namespace cpu

void LinearCpu(ThreadPool& pool, LinearScratch& scratch, const LinearParams& params, CpuIsa isa,
               CpuActivations activations, const cpu::RowKernels* row_kernels) {
  NIBBLE_CHECK(isa != CpuIsa::kAuto);
  NIBBLE_CHECK(params.x.dtype == DType::kF32 && params.y.dtype == DType::kF32);
  NIBBLE_CHECK(row_kernels != nullptr || (params.norm_weight == nullptr && !params.gated));
  cpu::Call call{
      .kernels = cpu::KernelsOf(isa), .params = params, .row_kernels = row_kernels, .x = params.x};
  if (activations == CpuActivations::kInt16) call.planes = 2;
  int64_t num_blocks = 0;
  int64_t num_rows = 0;
  for (const PackedMatrix* packed : params.weights) {
    const auto& weight = static_cast<const cpu::CpuMatrix&>(*packed);
    NIBBLE_CHECK(weight.cols() == params.x.cols);
    NIBBLE_CHECK(activations == CpuActivations::kInt8 || !weight.shape().has_words());
    num_blocks += weight.num_blocks();
    num_rows += weight.rows();
    if (activations == CpuActivations::kF32 || !weight.is_int()) {
      call.floats = true;
      continue;
    }
    call.quantized = true;
    call.halves = call.halves || weight.shape().group < cpu::kGroup;
    call.words = call.words || weight.shape().has_words();
  }
  NIBBLE_CHECK(params.x.rows == params.y.rows);
  const int64_t work = num_rows * params.x.cols * params.x.rows;
  if (params.gated) {
    NIBBLE_CHECK(params.weights.size() == 2 && params.bias == nullptr && !params.accumulate);
    NIBBLE_CHECK(params.weights[0]->rows() == params.y.cols && num_rows == 2 * params.y.cols);
    num_blocks /= 2;
  } else {
    NIBBLE_CHECK(num_rows == params.y.cols);
  }
  call.SetLayouts();
  cpu::PrepareRows(pool, call, scratch.buffers());
  cpu::RunParts(pool, call, static_cast<int32_t>(num_blocks), work);
}

}  // namespace nibble
