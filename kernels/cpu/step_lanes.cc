#include "kernels/cpu/step_lanes.h"

#include <algorithm>
#include <atomic>
#include <variant>

#include "kernels/check.h"

namespace nibble::cpu {
namespace {

// How far a lane is.
struct alignas(64) Progress {
  std::atomic<int32_t> layers_stored{0};
};

// Behind the last op from `first` on that is about the same rows; at least one is taken.
size_t SegmentEnd(absl::Span<const StepOp> ops, size_t first) {
  int32_t rows = 0;
  for (size_t i = first; i < ops.size(); ++i) {
    const int32_t of_op = RowsOf(ops[i]);
    if (of_op < 0 || (of_op > 0 && rows > 0 && of_op != rows)) return std::max(i, first + 1);
    if (of_op > 0) rows = of_op;
  }
  return ops.size();
}

// No lanes for a segment without attention, or with attentions of different sequences.
std::vector<Lane> LanesOf(absl::Span<const StepOp> ops, int32_t num_threads) {
  const AttentionParams* attention = nullptr;
  StepShape shape;
  for (const StepOp& op : ops) {
    if (const auto* linear = std::get_if<LinearParams>(&op)) {
      for (const PackedMatrix* weight : linear->weights) {
        shape.row_macs += int64_t{weight->rows()} * weight->cols();
      }
    }
    const auto* const found = std::get_if<AttentionParams>(&op);
    if (found == nullptr) continue;
    if (attention != nullptr && (found->cu_seqlens_q != attention->cu_seqlens_q ||
                                 found->context_lens != attention->context_lens)) {
      return {};
    }
    attention = found;
    shape.position_macs += 2 * int64_t{found->num_heads} * found->cache.head_dim;
  }
  if (attention == nullptr) return {};
  shape.num_threads = num_threads;
  shape.block_size = attention->cache.block_size;
  shape.cu_seqlens = {attention->cu_seqlens_q, static_cast<size_t>(attention->num_seqs) + 1};
  shape.context_lens = {attention->context_lens, static_cast<size_t>(attention->num_seqs)};
  return CutLanes(shape);
}

// What the lanes of a segment share.
struct Shared {
  explicit Shared(const std::vector<Lane>& all) : lanes(all), progress(all.size()) {}
  const std::vector<Lane>& lanes;
  std::vector<Progress> progress;
  std::atomic<int32_t> next{0};    // lane to begin
  std::atomic<int64_t> layers{0};  // done, of all lanes together
};

// Runs ops on the rows of one lane.
class LaneRun {
 public:
  LaneRun(Shared& shared, int32_t number, CpuOps& ops)
      : shared_(shared), number_(number), lane_(shared.lanes[number]), ops_(ops) {}

  template <class Params>
  void operator()(const Params& params) {
    ops_.Run(RowSlice(params, lane_.begin, lane_.end));
  }
  void operator()(const RopeStoreKvParams& params) {
    ops_.Run(RowSlice(params, lane_.begin, lane_.end));
    ++layers_stored_;
    shared_.progress[number_].layers_stored.store(layers_stored_, std::memory_order_release);
  }
  void operator()(const AttentionParams& params) {
    for (int32_t i = lane_.first_needed; i < number_; ++i) {
      const std::atomic<int32_t>& stored = shared_.progress[i].layers_stored;
      WaitUntil([&] { return stored.load(std::memory_order_acquire) >= layers_stored_; });
    }
    ops_.Run(RowSlice(params, lane_));
  }
  // Evenly over the step, however many lanes there are.
  void operator()(const LayerCount& count) {
    const int64_t done = shared_.layers.fetch_add(1, std::memory_order_relaxed) + 1;
    if (done % static_cast<int64_t>(shared_.lanes.size()) == 0) ops_.Run(count);
  }
  // Are segments of their own.
  void operator()(const GatherRowsParams&) { NIBBLE_CHECK(false); }
  void operator()(const SampleParams&) { NIBBLE_CHECK(false); }

 private:
  Shared& shared_;
  const int32_t number_;
  const Lane& lane_;
  CpuOps& ops_;
  int32_t layers_stored_ = 0;
};

}  // namespace

StepLanes::StepLanes(ThreadPool& pool, CpuOps& whole, CpuIsa isa, CpuActivations activations,
                     const RowKernels& kernels)
    : pool_(pool), whole_(whole) {
  for (int i = 0; i < pool.size(); ++i) {
    workers_.push_back(std::make_unique<Worker>(isa, activations, kernels));
  }
}

void StepLanes::Run(absl::Span<const StepOp> ops) {
  for (size_t first = 0; first < ops.size();) {
    const size_t end = SegmentEnd(ops, first);
    const absl::Span<const StepOp> segment = ops.subspan(first, end - first);
    const std::vector<Lane> lanes = LanesOf(segment, pool_.size());
    if (lanes.empty()) {
      RunWhole(segment);
    } else {
      RunInLanes(segment, lanes);
    }
    first = end;
  }
}

void StepLanes::RunWhole(absl::Span<const StepOp> ops) {
  for (const StepOp& op : ops) std::visit([&](const auto& params) { whole_.Run(params); }, op);
}

void StepLanes::RunInLanes(absl::Span<const StepOp> ops, const std::vector<Lane>& lanes) {
  const auto num_lanes = static_cast<int32_t>(lanes.size());
  Shared shared(lanes);
  pool_.Run(pool_.size(), [&](int part) {
    for (int32_t i = shared.next++; i < num_lanes; i = shared.next++) {
      LaneRun run(shared, i, workers_[part]->ops);
      for (const StepOp& op : ops) std::visit(run, op);
    }
  });
}

}  // namespace nibble::cpu
