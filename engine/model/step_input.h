// What a step's ops read beside activations: a Batch turned into arrays on the device, at addresses
// that never change.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/batch.h"
#include "engine/model/drawn_tokens.h"
#include "engine/model/model_runner.h"
#include "kernels/backend.h"

namespace nibble {

class StepInput {
 public:
  // Room for the largest step within `limits`.
  static absl::StatusOr<StepInput> Create(Backend& backend, const RunnerLimits& limits);

  // What Create would allocate.
  static int64_t PlannedBytes(const RunnerLimits& limits);

  // Fills the arrays, on the host. A token that `drawn` knows is given as its place there
  // (EmbedParams::drawn). REQUIRES the batch within the limits (ModelRunner::Run), and
  // logits_rows below its number of tokens, at most max_batch_tokens + max_sequences.
  void Fill(const Batch& batch, const DrawnTokens& drawn, absl::Span<const int32_t> logits_rows);
  // The arrays to the device, in one copy; within a step.
  void Upload() const;

  int32_t num_tokens() const { return num_tokens_; }
  int32_t num_sequences() const { return num_sequences_; }
  int32_t max_blocks() const { return max_blocks_; }

  // On the device.
  const int32_t* ids() const { return At(ids_); }                    // [num_tokens]
  const int32_t* positions() const { return At(positions_); }        // [num_tokens]
  const int32_t* slots() const { return At(slots_); }                // [num_tokens]
  const int32_t* cu_seqlens() const { return At(cu_seqlens_); }      // [num_sequences + 1]
  const int32_t* context_lens() const { return At(context_lens_); }  // [num_sequences]
  const int32_t* logits_rows() const { return At(logits_rows_); }    // token rows
  const int32_t* block_table() const { return At(block_table_); }    // [num_sequences, max_blocks]

  int64_t size_bytes() const { return memory_.size_bytes(); }

 private:
  StepInput() = default;
  const int32_t* At(int64_t offset) const {
    return static_cast<const int32_t*>(memory_.data()) + offset;
  }
  void Place(const RunnerLimits& limits);
  void FillRow(const BatchRow& row, int32_t sequence, int32_t first_token, int32_t drawn_row);

  Backend* backend_ = nullptr;
  RunnerLimits limits_;
  int32_t max_blocks_ = 0;
  int32_t num_tokens_ = 0;
  int32_t num_sequences_ = 0;
  std::vector<int32_t> staging_;  // (host) the same arrays
  DeviceBuffer memory_;
  // Where each array begins, in elements.
  int64_t ids_ = 0, positions_ = 0, slots_ = 0, cu_seqlens_ = 0, context_lens_ = 0;
  int64_t logits_rows_ = 0, block_table_ = 0, end_ = 0;
};

}  // namespace nibble
