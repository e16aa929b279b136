#include "engine/model/drawn_tokens.h"

namespace nibble {

void DrawnTokens::Note(const Batch& batch, const SamplePlan& plan) {
  by_sequence_.clear();
  for (int32_t i = 0; i < plan.size(); ++i) {
    if (plan.rows()[i].score_id >= 0) continue;
    const BatchRow& row = batch.rows[plan.sequence(i)];
    by_sequence_[row.sequence_id] = {i, row.num_computed + row.num_scheduled, plan.outputs()[i].id};
  }
}

int32_t DrawnTokens::RowOf(const BatchRow& row) const {
  if (row.num_scheduled != 1) return -1;
  const auto found = by_sequence_.find(row.sequence_id);
  if (found == by_sequence_.end()) return -1;
  // The id as well: whoever feeds the runner may have continued with another token.
  const Drawn& drawn = found->second;
  const bool same = drawn.position == row.num_computed && drawn.id == row.tokens[drawn.position];
  return same ? drawn.plan_row : -1;
}

}  // namespace nibble
