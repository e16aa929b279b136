#include "engine/model/workspace.h"

#include "engine/base/status_macros.h"

namespace nibble {

absl::StatusOr<Workspace> Workspace::Create(Backend& backend, const ModelConfig& config,
                                            int32_t max_tokens, int32_t max_logits_rows) {
  const DType dtype = backend.activation_dtype();
  const int32_t q_cols = config.num_heads * config.head_dim;
  const int32_t qkv_cols = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim;
  Workspace space;
  const auto allocate = [&](RowBuffer& buffer, int32_t rows, int32_t cols, DType type,
                            absl::string_view what) {
    absl::StatusOr<RowBuffer> made = RowBuffer::Create(backend, rows, cols, type, what);
    if (made.ok()) buffer = *std::move(made);
    return made.status();
  };
  const auto tokens = [&](RowBuffer& buffer, int32_t cols) {
    return allocate(buffer, max_tokens, cols, dtype, "the activations of a step");
  };
  NIBBLE_RETURN_IF_ERROR(tokens(space.hidden, config.hidden_size));
  NIBBLE_RETURN_IF_ERROR(tokens(space.qkv, qkv_cols));
  NIBBLE_RETURN_IF_ERROR(tokens(space.attended, q_cols));
  NIBBLE_RETURN_IF_ERROR(tokens(space.activated, config.ffn_size));
  NIBBLE_RETURN_IF_ERROR(
      allocate(space.last, max_logits_rows, config.hidden_size, dtype, "the rows to score"));
  NIBBLE_RETURN_IF_ERROR(
      allocate(space.logits, max_logits_rows, config.vocab_size, DType::kF32, "the logits"));
  return space;
}

int64_t Workspace::PlannedBytes(const ModelConfig& config, DType activations, int32_t max_tokens,
                                int32_t max_logits_rows) {
  const int64_t q_cols = int64_t{config.num_heads} * config.head_dim;
  const int64_t qkv_cols = (int64_t{config.num_heads} + 2 * config.num_kv_heads) * config.head_dim;
  const auto size = static_cast<int64_t>(SizeOf(activations));
  const int64_t token = (config.hidden_size + qkv_cols + q_cols + config.ffn_size) * size;
  const int64_t logits_row = config.hidden_size * size + int64_t{config.vocab_size} * 4;
  return max_tokens * token + max_logits_rows * logits_row;
}

int64_t Workspace::size_bytes() const {
  int64_t total = 0;
  for (const RowBuffer* buffer : {&hidden, &qkv, &attended, &activated, &last, &logits}) {
    total += buffer->size_bytes();
  }
  return total;
}

}  // namespace nibble
