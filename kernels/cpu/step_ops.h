// A step noted down instead of run: the ops that were called between RunStep's begin and its end,
// in their order, so that they can be cut into lanes (step_lanes.h).
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/lane_cuts.h"
#include "kernels/ops.h"

namespace nibble::cpu {

using StepOp =
    std::variant<EmbedParams, RmsNormParams, LinearParams, RopeStoreKvParams, AttentionParams,
                 GatedActivationParams, GatherRowsParams, SampleParams, LayerCount>;

// Rows that the op computes each by itself, so that it may be cut between them (attention only as
// lane_cuts.h says). -1 for an op that takes rows from anywhere (GatherRows, Sample), 0 for
// LayerCount, which has none.
int32_t RowsOf(const StepOp& op);

// The same op on its rows begin .. end - 1 only.
EmbedParams RowSlice(EmbedParams op, int32_t begin, int32_t end);
RmsNormParams RowSlice(RmsNormParams op, int32_t begin, int32_t end);
LinearParams RowSlice(LinearParams op, int32_t begin, int32_t end);
RopeStoreKvParams RowSlice(RopeStoreKvParams op, int32_t begin, int32_t end);
GatedActivationParams RowSlice(GatedActivationParams op, int32_t begin, int32_t end);
AttentionParams RowSlice(AttentionParams op, const Lane& lane);

// The ops of one step after another; keeps its memory. Lists of weights are copied, all else that
// an op points to must live until the step is run.
class StepOps {
 public:
  void Clear();
  void Add(StepOp op);
  // Until the next Clear.
  absl::Span<const StepOp> Take();

 private:
  std::vector<StepOp> ops_;
  std::vector<const PackedMatrix*> weights_;  // of all linears, one after the other
};

}  // namespace nibble::cpu
