#include "kernels/cuda/tiles_linear.h"

#include <algorithm>

#include "kernels/cuda/linear.h"

namespace nibble::cuda {
namespace {

const StoredMatrix& StoredOf(const PackedMatrix* weight) {
  return static_cast<const CudaMatrix*>(weight)->stored();
}

bool IsInTiles(const PackedMatrix* weight) { return StoredOf(weight).storage == Storage::kTiled; }

}  // namespace

size_t TilesLinear::LaunchedTogether(absl::Span<const PackedMatrix* const> weights) {
  size_t count = 0;
  while (count < weights.size() && count < kMostTiledWeights && IsInTiles(weights[count]) &&
         ShareALaunch(StoredOf(weights[0]).tiled, StoredOf(weights[count]).tiled)) {
    ++count;
  }
  return count;
}

TiledLinear TilesLinear::CallOf(absl::Span<const PackedMatrix* const> weights, int32_t rows) {
  TiledLinear call;
  call.num_weights = static_cast<int32_t>(weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    call.weights[i].layout = StoredOf(weights[i]).tiled;
    call.weights[i].tiles = StoredOf(weights[i]).bytes;
  }
  call.rows = rows;
  return call;
}

TilesLinear::Need TilesLinear::NeedOf(absl::Span<const PackedMatrix* const> weights, int32_t rows) {
  Need need;
  while (!weights.empty()) {
    const size_t count = LaunchedTogether(weights);
    if (count > 0) {
      const TiledLinear call = CallOf(weights.first(count), rows);
      const TiledLayout& layout = call.weights[0].layout;
      const int64_t counters = TiledCounterBytes(call);
      need.counters = std::max(need.counters, counters);
      need.results = std::max(need.results, TiledWorkspaceBytes(call) - counters);
      if (layout.offsets) need.sums = std::max(need.sums, GroupSumsBytes(layout, rows));
    }
    weights.remove_prefix(std::max<size_t>(count, 1));
  }
  return need;
}

void TilesLinear::Reserve(absl::Span<const PackedMatrix* const> weights) {
  const Need need = NeedOf(weights, most_rows_);
  if (need.results > 0) {
    results_ =
        static_cast<uint8_t*>(workspace_.WithCounters(need.counters, need.results)) + need.counters;
  }
  if (need.sums > 0) sums_ = static_cast<float*>(workspace_.Take(need.sums));
}

void TilesLinear::Multiply(const Tensor& x, absl::Span<const PackedMatrix* const> weights,
                           const Tensor& y, const float* bias, bool accumulate) {
  TiledLinear call = CallOf(weights, x.rows);
  int64_t col = 0;
  for (TiledWeight& weight : absl::MakeSpan(call.weights, weights.size())) {
    weight.y = static_cast<uint8_t*>(y.data) + col * static_cast<int64_t>(SizeOf(y.dtype));
    weight.bias = bias == nullptr ? nullptr : bias + col;
    col += weight.layout.rows;
  }
  call.dtype = x.dtype;
  call.x = x.data;
  call.x_stride = x.stride;
  call.f32_y = y.dtype == DType::kF32;
  call.y_stride = y.stride;
  call.accumulate = accumulate;
  call.early_weights = device_.dependent_launches();
  call.warp_groups = device_.has_warp_groups();
  call.workspace = results_ - TiledCounterBytes(call);
  if (call.weights[0].layout.offsets) call.group_sums = GroupSums(call);
  device_.Keep(LaunchTiledLinear(call, device_.stream()), "linear");
}

// Kept from one launch to the next while they are over the same groups of columns.
const float* TilesLinear::GroupSums(const TiledLinear& call) {
  const TiledLayout& layout = call.weights[0].layout;
  const bool is_kept =
      layout.group == summed_.group && GroupSumsGroups(layout) == GroupSumsGroups(summed_);
  if (!is_kept) {
    device_.Keep(LaunchGroupSums(call, sums_, device_.stream()), "linear (group sums)");
    summed_ = layout;
  }
  return sums_;
}

}  // namespace nibble::cuda
