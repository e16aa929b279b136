// Which token rows of a step need logits, and what is done with each: scored prompt positions, and
// the draw of the next token. Rows come in batch order, a sequence's prompt positions before its
// draw.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/batch.h"
#include "engine/model/model_runner.h"
#include "kernels/ops.h"

namespace nibble {

class SamplePlan {
 public:
  explicit SamplePlan(const RunnerLimits& limits);

  // Replaces the plan, for rows_at_once rows of logits at a time (SampleRow::logits_row counts
  // anew from each). Spans in the rows point into `batch` and into the plan until the next Fill;
  // rows and outputs themselves lie where they lay before.
  void Fill(const Batch& batch, int32_t rows_at_once);

  int32_t size() const { return static_cast<int32_t>(rows_.size()); }
  absl::Span<const SampleRow> rows() const { return rows_; }
  absl::Span<const int32_t> token_rows() const { return token_rows_; }
  int32_t sequence(int32_t row) const { return sequences_[row]; }  // the batch row it is for
  absl::Span<SampledToken> outputs() { return absl::MakeSpan(outputs_); }
  absl::Span<const SampledToken> outputs() const { return outputs_; }

  // Moves the outputs to the batch rows they are for.
  void Deliver(StepResult* result);

 private:
  struct Extras {  // of one draw; capacity is kept from step to step
    std::vector<TokenCount> seen;
    std::vector<LogitBias> bias;
  };
  void AddPrompt(const BatchRow& row, int32_t sequence, int32_t first_token);
  void AddDraw(const BatchRow& row, int32_t sequence, int32_t last_token);
  void CountSeen(const BatchRow& row, std::vector<TokenCount>* seen);
  void Add(const SampleRow& row, int32_t sequence, int32_t token_row);

  std::vector<SampleRow> rows_;
  std::vector<int32_t> token_rows_;
  std::vector<int32_t> sequences_;  // the batch row each is for
  std::vector<SampledToken> outputs_;
  std::vector<Extras> extras_;        // by batch row
  std::vector<int32_t> index_of_id_;  // [vocab_size], -1 between uses: the id's entry in `seen`
};

}  // namespace nibble
