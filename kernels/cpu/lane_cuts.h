// Where the rows of a step may be cut into lanes (step_lanes.h), and where it pays.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace nibble::cpu {

// Neighbouring rows of a step, with the sequences they belong to as AttentionParams has them: as if
// the lane were a step of its own.
struct Lane {
  int32_t begin = 0, end = 0;         // rows
  int32_t first_sequence = 0;         // of the step
  std::vector<int32_t> cu_seqlens;    // [sequences + 1], from 0
  std::vector<int32_t> context_lens;  // [sequences], up to the lane's last row
  int32_t first_needed = 0;  // lanes from here on have rows of its first sequence; itself: none
};

// A step, as far as its cuts depend on it.
struct StepShape {
  int32_t num_threads = 1;
  int32_t block_size = 8;                   // of the cache
  absl::Span<const int32_t> cu_seqlens;     // [sequences + 1]; the last is the number of rows
  absl::Span<const int32_t> context_lens;   // [sequences]
  int64_t row_macs = 0, position_macs = 0;  // of a row; of attention, of a position that it sees
};

// At least one lane a thread, of about equal work and in the order of the rows; none where the step
// is better shared out op by op: of few rows, or not to be cut evenly. A sequence is only cut where
// a block of the cache begins, so that no lane writes into a block that another one reads.
std::vector<Lane> CutLanes(const StepShape& shape);

}  // namespace nibble::cpu
