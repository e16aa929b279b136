// Tokens that the last step drew and left on the device (SampleParams::drawn): a sequence's next
// step reads its id there, so that it could be issued before the host has seen it.
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "engine/batch.h"
#include "engine/model/sample_plan.h"

namespace nibble {

class DrawnTokens {
 public:
  // After a step: what it drew, row by row of `plan`. Tokens of earlier steps are forgotten.
  void Note(const Batch& batch, const SamplePlan& plan);
  // The row of the last plan that drew the one token which `row` runs; -1 when none did.
  int32_t RowOf(const BatchRow& row) const;

 private:
  struct Drawn {
    int32_t plan_row, position, id;
  };
  absl::flat_hash_map<uint64_t, Drawn> by_sequence_;
};

}  // namespace nibble
