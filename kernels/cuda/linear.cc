#include "kernels/cuda/linear.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/codes_linear.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/tiles_linear.h"

namespace nibble::cuda {
namespace {

// Of a weight of floats, converted at once: 32 MiB. Few enough that the slab stays in the L2 cache
// of no device, many enough that a GEMM fills one. Slabs begin at multiples of 64 rows, so that
// what a GEMM writes stays aligned; those of tiles with a tile.
constexpr int32_t kSlabElements = 16 << 20;
constexpr int32_t kSlabRowUnit = 64, kMostSlabRows = 32768;

int32_t SlabRows(const StoredMatrix& weight) {
  const int32_t unit = weight.storage == Storage::kTiled ? kTileRows : kSlabRowUnit;
  const int32_t whole = kSlabElements / weight.cols / unit * unit;
  const int32_t rows = std::clamp(whole, unit, kMostSlabRows);
  return std::min(weight.rows, rows);
}

Tensor RowsOf(const Tensor& x, int32_t first, int32_t count) {
  Tensor rows = x;
  rows.data = static_cast<uint8_t*>(x.data) +
              int64_t{first} * x.stride * static_cast<int64_t>(SizeOf(x.dtype));
  rows.rows = count;
  return rows;
}

Tensor ColsOf(const Tensor& x, int32_t first, int32_t count) {
  Tensor cols = x;
  cols.data = static_cast<uint8_t*>(x.data) + first * static_cast<int64_t>(SizeOf(x.dtype));
  cols.cols = count;
  return cols;
}

// Where a product goes.
struct Target {
  Tensor y;  // [rows of the pass, weight's rows]
  const float* bias = nullptr;
  bool accumulate = false;
};

// Of one pass: at most so many rows of x through all weights of a call, if `wide` all but codes
// through the GEMM.
struct PassShape {
  int32_t most_rows = kPassRows;
  bool wide = false;
};

class Pass {
 public:
  Pass(Device& device, Gemm& gemm, Workspace& workspace, const Tensor& x, const PassShape& shape)
      : device_(device),
        gemm_(gemm),
        workspace_(workspace),
        x_(x),
        most_rows_(shape.most_rows),
        wide_(shape.wide),
        tiles_(device, workspace, most_rows_),
        codes_(device, gemm, workspace, most_rows_) {}

  void Run(const LinearParams& params, const Tensor& y) {
    workspace_.Reset();
    if (!wide_) tiles_.Reserve(params.weights);
    if (params.norm_weight != nullptr) Normalize(params);
    codes_.Quantize(x_, params.weights);
    if (codes_.Fits(params.weights)) {
      codes_.MultiplyAll(params, y);
    } else if (params.gated) {
      Gated(params, y);
    } else {
      Concatenated(params, y);
    }
  }

 private:
  void Normalize(const LinearParams& params) {
    RmsNormCall norm;
    norm.dtype = x_.dtype;
    norm.rows = x_.rows;
    norm.cols = x_.cols;
    norm.x = x_.data;
    norm.x_stride = x_.stride;
    norm.weight = params.norm_weight;
    norm.epsilon = params.norm_epsilon;
    norm.out = workspace_.Take(int64_t{most_rows_} * x_.cols * 2);
    norm.out_stride = x_.cols;
    codes_.Normalize(norm, params.weights);
    x_.data = norm.out;
    x_.stride = norm.out_stride;
  }

  void Concatenated(const LinearParams& params, const Tensor& y) {
    int32_t col = 0;
    for (absl::Span<const PackedMatrix* const> left = params.weights; !left.empty();) {
      const size_t in_tiles = wide_ ? 0 : TilesLinear::LaunchedTogether(left);
      const auto weights = left.first(std::max<size_t>(in_tiles, 1));
      int32_t cols = 0;
      for (const PackedMatrix* weight : weights) cols += weight->rows();
      Target target;
      target.y = ColsOf(y, col, cols);
      target.bias = params.bias == nullptr ? nullptr : params.bias + col;
      target.accumulate = params.accumulate;
      if (in_tiles > 0) {
        tiles_.Multiply(x_, weights, target.y, target.bias, target.accumulate);
      } else {
        Multiply(static_cast<const CudaMatrix*>(weights[0])->stored(), target);
      }
      col += cols;
      left.remove_prefix(weights.size());
    }
  }

  void Gated(const LinearParams& params, const Tensor& y) {
    NIBBLE_CHECK(params.weights.size() == 2 && params.bias == nullptr && !params.accumulate);
    const int32_t cols = params.weights[0]->rows();
    Tensor both = y;
    both.data = workspace_.Take(int64_t{most_rows_} * 2 * cols * 2);
    both.cols = both.stride = 2 * cols;
    Concatenated(params, both);
    GatedCall gated;
    gated.dtype = y.dtype;
    gated.rows = y.rows;
    gated.cols = cols;
    gated.gate_up = both.data;
    gated.gate_up_stride = both.stride;
    gated.out = y.data;
    gated.out_stride = y.stride;
    device_.Keep(LaunchGated(gated, device_.stream()), "linear (gate)");
  }

  void Multiply(const StoredMatrix& weight, const Target& to) {
    const Workspace before = workspace_;  // what one weight takes, the next may have
    if (weight.storage == Storage::kCodes) {
      codes_.Multiply(weight, to.y, to.bias, to.accumulate);
    } else {
      MultiplySlabs(weight, to);
    }
    workspace_ = before;
  }

  void MultiplySlabs(const StoredMatrix& weight, const Target& to) {
    const bool as_is =
        weight.storage == (x_.dtype == DType::kBf16 ? Storage::kBf16 : Storage::kF16);
    const bool direct = to.y.dtype == DType::kF32 && to.bias == nullptr && !to.accumulate;
    void* slab = as_is ? nullptr : workspace_.Take(int64_t{SlabRows(weight)} * weight.cols * 2);
    float* sums =
        direct ? nullptr
               : static_cast<float*>(workspace_.Take(int64_t{most_rows_} * SlabRows(weight) * 4));
    for (int32_t first = 0; first < weight.rows; first += SlabRows(weight)) {
      const int32_t count = std::min(SlabRows(weight), weight.rows - first);
      GemmCall call;
      call.dtype = x_.dtype;
      call.x = x_.data;
      call.x_stride = x_.stride;
      call.w = as_is ? weight.bytes + int64_t{first} * weight.cols * 2
                     : Dequantized(weight, first, count, slab);
      call.y = direct ? to.y.f32() + first : sums;
      call.y_stride = direct ? to.y.stride : count;
      call.rows = x_.rows;
      call.cols = weight.cols;
      call.out = count;
      device_.Keep(gemm_.Run(call, device_.stream()), "linear (GEMM)");
      if (!direct) Finish(call, ColsOf(to.y, first, count), to, first);
    }
  }

  const void* Dequantized(const StoredMatrix& weight, int32_t first, int32_t count, void* slab) {
    DequantizeCall call;
    call.matrix = weight;
    call.first = first;
    call.rows = count;
    call.dtype = x_.dtype;
    call.out = slab;
    call.out_stride = weight.cols;
    device_.Keep(LaunchDequantize(call, device_.stream()), "linear (slab)");
    return slab;
  }

  void Finish(const GemmCall& sums, const Tensor& y, const Target& to, int32_t first) {
    FinishCall call;
    call.dtype = y.dtype;
    call.parts[0].sums = sums.y;
    call.parts[0].stride = sums.y_stride;
    call.parts[0].cols = sums.out;
    call.bias = to.bias == nullptr ? nullptr : to.bias + first;
    call.accumulate = to.accumulate;
    call.rows = sums.rows;
    call.y = y.data;
    call.y_stride = y.stride;
    device_.Keep(LaunchFinish(call, device_.stream()), "linear (finish)");
  }

  Device& device_;
  Gemm& gemm_;
  Workspace& workspace_;
  Tensor x_;
  const int32_t most_rows_;
  const bool wide_;
  TilesLinear tiles_;  // of passes that are not wide
  CodesLinear codes_;
};

}  // namespace

absl::Status CheckLinear(const StoredMatrix& weight, int64_t workspace_bytes) {
  const int64_t pass = kPassRows;
  int64_t needed = Workspace::kCounterBytes + 12 * Workspace::kAlignment;
  needed += pass * weight.cols * 2;      // normalized
  needed += pass * 2 * weight.rows * 2;  // gate and up
  int64_t counters = 0;
  int64_t product = 0;
  if (weight.storage == Storage::kTiled) {
    // With as many in its launch as there may be; of those the largest is checked, too.
    TiledLinear call{.num_weights = kMostTiledWeights, .rows = kPassRows};
    for (TiledWeight& of_call : call.weights) of_call.layout = weight.tiled;
    counters = TiledCounterBytes(call);
    needed += TiledWorkspaceBytes(call);
    product = GroupSumsBytes(weight.tiled, kPassRows);
  } else if (weight.storage == Storage::kCodes) {
    needed += 3 * (pass * weight.cols + pass * BlocksOf(weight.cols) * 4);
    product = pass * weight.rows * 4;
  } else {
    product = int64_t{SlabRows(weight)} * (weight.cols * 2 + pass * 4);
  }
  needed += product;
  if (needed <= workspace_bytes && counters <= Workspace::kCounterBytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("a weight of ", weight.rows, " x ", weight.cols,
                                                   " needs ", needed, " bytes of workspace, ",
                                                   workspace_bytes, " were planned"));
}

int32_t WidePassRows(const LinearParams& params, int64_t workspace_bytes) {
  constexpr int64_t kTakes = 16;  // at most, each rounded up
  int64_t slab = 0, product = 0;  // of one weight at a time
  int64_t codes = 0;              // of all of them: x as codes, and products
  int64_t out = 0;
  for (const PackedMatrix* weight : params.weights) {
    const StoredMatrix& stored = static_cast<const CudaMatrix*>(weight)->stored();
    out += stored.rows;
    if (stored.storage == Storage::kCodes) {
      codes += stored.cols + BlocksOf(stored.cols) * 4 + int64_t{stored.rows} * 4;
    } else {
      slab = std::max(slab, int64_t{SlabRows(stored)} * stored.cols * 2);
      product = std::max(product, int64_t{SlabRows(stored)} * 4);
    }
  }
  int64_t of_row = codes + product;
  if (params.norm_weight != nullptr) of_row += int64_t{params.x.cols} * 2;
  if (params.gated) of_row += out * 2;
  const int64_t fixed = Workspace::kCounterBytes + kTakes * Workspace::kAlignment + slab;
  const int64_t rows = (workspace_bytes - fixed) / of_row / kPassRows * kPassRows;
  return static_cast<int32_t>(std::clamp<int64_t>(rows, kPassRows, kMostGemmRows));
}

int32_t TiledPassRows(const LinearParams& params, int64_t workspace_bytes) {
  constexpr int64_t kTakes = 4;
  int64_t out = 0;
  for (const PackedMatrix* weight : params.weights) {
    if (static_cast<const CudaMatrix*>(weight)->stored().storage != Storage::kTiled)
      return kPassRows;
    out += weight->rows();
  }
  for (int32_t rows = kMostTiledPassRows; rows > kPassRows; rows /= 2) {
    const TilesLinear::Need need = TilesLinear::NeedOf(params.weights, rows);
    int64_t bytes =
        Workspace::kCounterBytes + kTakes * Workspace::kAlignment + need.results + need.sums;
    if (params.norm_weight != nullptr) bytes += int64_t{rows} * params.x.cols * 2;
    if (params.gated) bytes += rows * out * 2;
    if (bytes <= workspace_bytes && need.counters <= Workspace::kCounterBytes) return rows;
  }
  return kPassRows;
}

void RunLinear(Device& device, Gemm& gemm, Workspace& workspace, const LinearParams& params,
               bool wide_rows) {
  PassShape shape;
  if (params.x.rows > kPassRows && wide_rows) {
    shape.most_rows = WidePassRows(params, workspace.size_bytes());
    shape.wide = shape.most_rows > kPassRows;
  } else if (params.x.rows > kPassRows) {
    shape.most_rows = TiledPassRows(params, workspace.size_bytes());
  }
  for (int32_t first = 0; first < params.x.rows;) {
    const int32_t left = params.x.rows - first;
    const PassShape this_shape = left > kPassRows ? shape : PassShape{};
    const int32_t count = std::min(this_shape.most_rows, left);
    Pass(device, gemm, workspace, RowsOf(params.x, first, count), this_shape)
        .Run(params, RowsOf(params.y, first, count));
    first += count;
  }
}

}  // namespace nibble::cuda
