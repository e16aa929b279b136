#include "kernels/cuda/codes_linear.h"

#include "kernels/check.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/norm_codes.h"

namespace nibble::cuda {
namespace {

const StoredMatrix& StoredOf(const PackedMatrix* weight) {
  return static_cast<const CudaMatrix*>(weight)->stored();
}

RowCodes RowCodesFor(CodesShape::Kind kind) {
  if (kind == CodesShape::Kind::kInt8) return RowCodes::kInt8;
  return HasBlocks(kind) ? RowCodes::kE4m3Blocks : RowCodes::kE4m3;
}

// The first weight that is kCodes, or null.
const StoredMatrix* FirstCodes(CodesLinear::Weights weights) {
  for (const PackedMatrix* weight : weights) {
    if (StoredOf(weight).storage == Storage::kCodes) return &StoredOf(weight);
  }
  return nullptr;
}

}  // namespace

QuantizeRowsCall& CodesLinear::Start(CodesShape::Kind kind, int32_t rows, int32_t cols) {
  QuantizeRowsCall& call = quantized_[static_cast<size_t>(RowCodesFor(kind))];
  call.codes = RowCodesFor(kind);
  call.rows = rows;
  call.zero_rows = RowsFor(kind, rows) - rows;
  call.cols = cols;
  call.out = static_cast<uint8_t*>(workspace_.Take(int64_t{most_rows_} * cols));
  call.scales = static_cast<float*>(workspace_.Take(int64_t{most_rows_} * BlocksOf(cols) * 4));
  return call;
}

void CodesLinear::Normalize(RmsNormCall norm, Weights weights) {
  const StoredMatrix* const first = FirstCodes(weights);
  if (first == nullptr) {
    device_.Keep(LaunchRmsNorm(norm, device_.stream()), "linear (norm)");
    return;
  }
  bool is_read = false;  // norm.out
  for (const PackedMatrix* weight : weights) {
    const StoredMatrix& stored = StoredOf(weight);
    is_read = is_read || stored.storage != Storage::kCodes ||
              RowCodesFor(stored.kind) != RowCodesFor(first->kind);
  }
  if (!is_read) norm.out = nullptr;
  const QuantizeRowsCall& codes = Start(first->kind, norm.rows, norm.cols);
  device_.Keep(LaunchNormCodes(norm, codes, device_.stream()), "linear (norm, quantize)");
}

void CodesLinear::Quantize(const Tensor& x, Weights weights) {
  for (const PackedMatrix* weight : weights) {
    const StoredMatrix& stored = StoredOf(weight);
    if (stored.storage != Storage::kCodes) continue;
    if (quantized_[static_cast<size_t>(RowCodesFor(stored.kind))].out != nullptr) continue;
    QuantizeRowsCall& call = Start(stored.kind, x.rows, x.cols);
    call.dtype = x.dtype;
    call.x = x.data;
    call.x_stride = x.stride;
    device_.Keep(LaunchQuantizeRows(call, device_.stream()), "linear (quantize)");
  }
}

bool CodesLinear::Fits(Weights weights) const {
  if (weights.size() > FinishCall::kMostParts) return false;
  Workspace after = workspace_;
  for (const PackedMatrix* weight : weights) {
    if (StoredOf(weight).storage != Storage::kCodes) return false;
    const int64_t bytes = int64_t{most_rows_} * weight->rows() * 4;
    if (bytes + Workspace::kAlignment > after.left_bytes()) return false;
    after.Take(bytes);
  }
  return true;
}

GemmSums CodesLinear::Sums(const StoredMatrix& weight) {
  const QuantizeRowsCall& x = quantized_[static_cast<size_t>(RowCodesFor(weight.kind))];
  NIBBLE_CHECK(x.out != nullptr);
  const bool has_blocks = HasBlocks(weight.kind);
  const auto* scales = reinterpret_cast<const float*>(weight.bytes + CodeScalesAt(weight));
  CodesCall call;
  call.shape = {.kind = weight.kind, .cols = weight.cols, .out = weight.rows};
  call.x = x.out;
  call.w = weight.bytes;
  call.x_scales = has_blocks ? x.scales : nullptr;
  call.w_scales = has_blocks ? scales : nullptr;
  call.y = workspace_.Take(int64_t{most_rows_} * weight.rows * 4);
  call.rows = x.rows + x.zero_rows;
  device_.Keep(gemm_.RunCodes(call, device_.stream()), "linear (GEMM of codes)");
  GemmSums sums;
  sums.sums = call.y;
  sums.stride = sums.cols = weight.rows;
  sums.is_int32 = weight.kind == CodesShape::Kind::kInt8;
  sums.row_scales = has_blocks ? nullptr : x.scales;
  sums.col_scales = has_blocks ? nullptr : scales;
  return sums;
}

void CodesLinear::MultiplyAll(const LinearParams& params, const Tensor& y) {
  FinishCall finish;
  finish.dtype = y.dtype;
  finish.num_parts = 0;
  for (const PackedMatrix* weight : params.weights)
    finish.parts[finish.num_parts++] = Sums(StoredOf(weight));
  finish.gated = params.gated;
  finish.bias = params.bias;
  finish.accumulate = params.accumulate;
  finish.rows = y.rows;
  finish.y = y.data;
  finish.y_stride = y.stride;
  device_.Keep(LaunchFinish(finish, device_.stream()), "linear (finish)");
}

void CodesLinear::Multiply(const StoredMatrix& weight, const Tensor& y, const float* bias,
                           bool accumulate) {
  FinishCall finish;
  finish.dtype = y.dtype;
  finish.parts[0] = Sums(weight);
  finish.bias = bias;
  finish.accumulate = accumulate;
  finish.rows = y.rows;
  finish.y = y.data;
  finish.y_stride = y.stride;
  device_.Keep(LaunchFinish(finish, device_.stream()), "linear (finish)");
}

}  // namespace nibble::cuda
