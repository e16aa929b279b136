#include "engine/model/step_input.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {

void StepInput::Place(const RunnerLimits& limits) {
  limits_ = limits;
  max_blocks_ = (limits.max_context + limits.block_size - 1) / limits.block_size;
  const auto place = [this](int64_t& offset, int64_t count) {
    offset = end_;
    end_ += (count + 15) / 16 * 16;  // 64-byte aligned
  };
  place(ids_, limits.max_batch_tokens);
  place(positions_, limits.max_batch_tokens);
  place(slots_, limits.max_batch_tokens);
  place(cu_seqlens_, limits.max_sequences + 1);
  place(context_lens_, limits.max_sequences);
  place(logits_rows_, int64_t{limits.max_batch_tokens} + limits.max_sequences);
  place(block_table_, int64_t{limits.max_sequences} * max_blocks_);
}

int64_t StepInput::PlannedBytes(const RunnerLimits& limits) {
  StepInput input;
  input.Place(limits);
  return input.end_ * int64_t{sizeof(int32_t)};
}

absl::StatusOr<StepInput> StepInput::Create(Backend& backend, const RunnerLimits& limits) {
  StepInput input;
  input.backend_ = &backend;
  input.Place(limits);
  input.staging_.resize(input.end_);
  NIBBLE_ASSIGN_OR_RETURN(
      input.memory_, backend.Allocate(input.end_ * int64_t{sizeof(int32_t)}, "a step's input"));
  return input;
}

void StepInput::Fill(const Batch& batch, const DrawnTokens& drawn,
                     absl::Span<const int32_t> logits_rows) {
  NIBBLE_CHECK(static_cast<int64_t>(batch.rows.size()) <= limits_.max_sequences);
  NIBBLE_CHECK(batch.num_tokens <= limits_.max_batch_tokens);
  NIBBLE_CHECK(static_cast<int64_t>(logits_rows.size()) <= block_table_ - logits_rows_);
  num_sequences_ = static_cast<int32_t>(batch.rows.size());
  num_tokens_ = 0;
  for (int32_t s = 0; s < num_sequences_; ++s) {
    const BatchRow& row = batch.rows[s];
    NIBBLE_CHECK(row.num_scheduled >= 1 && num_tokens_ + row.num_scheduled <= batch.num_tokens);
    FillRow(row, s, num_tokens_, drawn.RowOf(row));
    num_tokens_ += row.num_scheduled;
  }
  NIBBLE_CHECK(num_tokens_ == batch.num_tokens);
  std::copy(logits_rows.begin(), logits_rows.end(), &staging_[logits_rows_]);
}

void StepInput::Upload() const {
  // One copy of all that lies before the last block of the last sequence: on a device, one message
  // costs more than the bytes between the arrays.
  const int64_t used = block_table_ + int64_t{num_sequences_} * max_blocks_;
  backend_->CopyToDevice(memory_.data(), staging_.data(), used * int64_t{sizeof(int32_t)});
}

void StepInput::FillRow(const BatchRow& row, int32_t sequence, int32_t first_token,
                        int32_t drawn_row) {
  const int32_t context = row.num_computed + row.num_scheduled;
  const int32_t num_blocks = (context + limits_.block_size - 1) / limits_.block_size;
  NIBBLE_CHECK(context <= limits_.max_context &&
               context <= static_cast<int64_t>(row.tokens.size()));
  NIBBLE_CHECK(num_blocks <= static_cast<int64_t>(row.block_table.size()));
  int32_t* table = &staging_[block_table_ + int64_t{sequence} * max_blocks_];
  for (int32_t b = 0; b < num_blocks; ++b) {
    NIBBLE_CHECK(row.block_table[b] >= 0 && row.block_table[b] < limits_.num_blocks);
    table[b] = row.block_table[b];
  }
  for (int32_t i = 0; i < row.num_scheduled; ++i) {
    const int32_t position = row.num_computed + i;
    const int32_t id = row.tokens[position];
    NIBBLE_CHECK(id >= 0 && id < limits_.vocab_size);
    staging_[ids_ + first_token + i] = drawn_row < 0 ? id : -1 - drawn_row;
    staging_[positions_ + first_token + i] = position;
    staging_[slots_ + first_token + i] =
        table[position / limits_.block_size] * limits_.block_size + position % limits_.block_size;
  }
  staging_[cu_seqlens_ + sequence] = first_token;
  staging_[cu_seqlens_ + sequence + 1] = first_token + row.num_scheduled;
  staging_[context_lens_ + sequence] = context;
}

}  // namespace nibble
