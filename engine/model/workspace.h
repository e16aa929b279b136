// Where the activations of a step live: allocated once for the largest step, viewed as tensors of
// its tokens.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "kernels/backend.h"

namespace nibble {

// [max_rows, cols] on the device; rows(n) is a view of its first n rows.
class RowBuffer {
 public:
  RowBuffer() = default;
  static absl::StatusOr<RowBuffer> Create(Backend& backend, int32_t max_rows, int32_t cols,
                                          DType dtype, absl::string_view what) {
    absl::StatusOr<DeviceBuffer> memory =
        backend.Allocate(int64_t{max_rows} * cols * static_cast<int64_t>(SizeOf(dtype)), what);
    if (!memory.ok()) return memory.status();
    RowBuffer buffer;
    buffer.memory_ = *std::move(memory);
    buffer.cols_ = cols;
    buffer.dtype_ = dtype;
    return buffer;
  }
  Tensor rows(int32_t n) const {
    Tensor view;
    view.data = memory_.data();
    view.rows = n;
    view.cols = cols_;
    view.stride = cols_;
    view.dtype = dtype_;
    return view;
  }
  int64_t size_bytes() const { return memory_.size_bytes(); }

 private:
  DeviceBuffer memory_;
  int32_t cols_ = 0;
  DType dtype_ = DType::kF32;
};

struct Workspace {
  // `max_logits_rows` rows go through the head at a time.
  static absl::StatusOr<Workspace> Create(Backend& backend, const ModelConfig& config,
                                          int32_t max_tokens, int32_t max_logits_rows);
  // What Create would allocate, with activations of that type.
  static int64_t PlannedBytes(const ModelConfig& config, DType activations, int32_t max_tokens,
                              int32_t max_logits_rows);
  int64_t size_bytes() const;

  RowBuffer hidden;     // [tokens, hidden_size], the residual stream
  RowBuffer qkv;        // [tokens, (num_heads + 2 num_kv_heads) head_dim]
  RowBuffer attended;   // [tokens, num_heads head_dim]
  RowBuffer activated;  // [tokens, ffn_size]
  RowBuffer last;       // [logits rows, hidden_size]
  RowBuffer logits;     // [logits rows, vocab_size] f32
};

}  // namespace nibble
