#include "kernels/cpu/step_ops.h"

#include <utility>

namespace nibble::cpu {
namespace {

Tensor Slice(Tensor tensor, int32_t begin, int32_t end) {
  if (!tensor) return tensor;
  tensor.data = tensor.f32_row(begin);
  tensor.rows = end - begin;
  return tensor;
}

struct Rows {
  int32_t operator()(const EmbedParams& op) const { return op.out.rows; }
  int32_t operator()(const RmsNormParams& op) const { return op.x.rows; }
  int32_t operator()(const LinearParams& op) const { return op.x.rows; }
  int32_t operator()(const RopeStoreKvParams& op) const { return op.qkv.rows; }
  int32_t operator()(const AttentionParams& op) const { return op.q.rows; }
  int32_t operator()(const GatedActivationParams& op) const { return op.out.rows; }
  int32_t operator()(const GatherRowsParams&) const { return -1; }
  int32_t operator()(const SampleParams&) const { return -1; }
  int32_t operator()(const LayerCount&) const { return 0; }
};

}  // namespace

int32_t RowsOf(const StepOp& op) { return std::visit(Rows{}, op); }

EmbedParams RowSlice(EmbedParams op, int32_t begin, int32_t end) {
  op.ids += begin;
  op.out = Slice(op.out, begin, end);
  return op;
}

RmsNormParams RowSlice(RmsNormParams op, int32_t begin, int32_t end) {
  op.x = Slice(op.x, begin, end);
  op.residual = Slice(op.residual, begin, end);
  op.out = Slice(op.out, begin, end);
  return op;
}

LinearParams RowSlice(LinearParams op, int32_t begin, int32_t end) {
  op.x = Slice(op.x, begin, end);
  op.y = Slice(op.y, begin, end);
  return op;
}

RopeStoreKvParams RowSlice(RopeStoreKvParams op, int32_t begin, int32_t end) {
  op.qkv = Slice(op.qkv, begin, end);
  op.positions += begin;
  op.slots += begin;
  return op;
}

GatedActivationParams RowSlice(GatedActivationParams op, int32_t begin, int32_t end) {
  op.gate_up = Slice(op.gate_up, begin, end);
  op.out = Slice(op.out, begin, end);
  return op;
}

AttentionParams RowSlice(AttentionParams op, const Lane& lane) {
  op.q = Slice(op.q, lane.begin, lane.end);
  op.out = Slice(op.out, lane.begin, lane.end);
  op.num_seqs = static_cast<int32_t>(lane.context_lens.size());
  op.cu_seqlens_q = lane.cu_seqlens.data();
  op.context_lens = lane.context_lens.data();
  op.block_table += int64_t{lane.first_sequence} * op.max_blocks;
  return op;
}

void StepOps::Clear() {
  ops_.clear();
  weights_.clear();
}

void StepOps::Add(StepOp op) {
  if (const auto* linear = std::get_if<LinearParams>(&op)) {
    weights_.insert(weights_.end(), linear->weights.begin(), linear->weights.end());
  }
  ops_.push_back(std::move(op));
}

absl::Span<const StepOp> StepOps::Take() {
  size_t first = 0;  // weights_ no longer moves
  for (StepOp& op : ops_) {
    auto* const linear = std::get_if<LinearParams>(&op);
    if (linear == nullptr) continue;
    const size_t n = linear->weights.size();
    linear->weights = absl::MakeConstSpan(weights_).subspan(first, n);
    first += n;
  }
  return ops_;
}

}  // namespace nibble::cpu
