// One pass of a linear (linear.h) through its weights in tiles: which of them share a launch, what
// they need of the workspace, and the sums of x that their offsets need.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tiled_linear.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

class TilesLinear {
 public:
  // For passes of at most `most_rows` rows. The arguments outlive it.
  TilesLinear(Device& device, Workspace& workspace, int32_t most_rows)
      : device_(device), workspace_(workspace), most_rows_(most_rows) {}

  // Bytes of the workspace: counters before its other memory, parts of results, sums of x.
  struct Need {
    int64_t counters = 0, results = 0, sums = 0;
  };
  // Of these weights, those in tiles among them, and passes of at most `rows` rows.
  static Need NeedOf(absl::Span<const PackedMatrix* const> weights, int32_t rows);

  // Takes what these weights need, those in tiles among them. REQUIRES that nothing has been taken
  // since the workspace's Reset: only the first to take has counters before it.
  void Reserve(absl::Span<const PackedMatrix* const> weights);

  // How many of the weights, from the first on, one launch multiplies with; 0 where the first is
  // not in tiles.
  static size_t LaunchedTogether(absl::Span<const PackedMatrix* const> weights);

  // y [x.rows, sum of the weights' rows] = or, with `accumulate`, += x W^T + bias (null: none), in
  // one launch, and one more the first time that weights with offsets need other sums of x.
  // REQUIRES weights that are LaunchedTogether and were reserved for, and the same x in every call.
  void Multiply(const Tensor& x, absl::Span<const PackedMatrix* const> weights, const Tensor& y,
                const float* bias, bool accumulate);

 private:
  static TiledLinear CallOf(absl::Span<const PackedMatrix* const> weights, int32_t rows);
  const float* GroupSums(const TiledLinear& call);

  Device& device_;
  Workspace& workspace_;
  int32_t most_rows_;
  uint8_t* results_ = nullptr;  // counters lie before them
  float* sums_ = nullptr;       // of x, over groups of the layout that they were made for
  TiledLayout summed_;          // without a group: none yet
};

}  // namespace nibble::cuda
