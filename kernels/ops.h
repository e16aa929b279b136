// The ops of a decoder, one params struct each. A backend implements all of them (backend.h).
//
// Ops are void: shapes are proved when a model is loaded, so no request can make an op fail. A device fault is
// latched with the op's name and reported by Backend::Synchronize(). All pointers are device memory of the
// backend the op is called on (on the CPU backend, plain RAM) unless marked (host).
//
// The batch-invariance contract: what an op writes for one token depends on that token's row, its position and its
// sequence's cache only - never on the other rows of the step, on how the prompt was chunked, or on the number of
// threads. Reductions therefore run in an order fixed by shape and absolute position.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace nibble {

// A weight in the device's private layout, made by Backend::Pack. Immutable.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int32_t rows() const = 0;         // out features
  virtual int32_t cols() const = 0;         // in features
  virtual int64_t size_bytes() const = 0;   // on the device
};

// out[r] = row ids[r] of the table, dequantized.  out [rows, table.cols].  REQUIRES ids[r] < table.rows.
// An id below 0 stands for drawn[-1 - ids[r]]: a token that an earlier step drew (SampleParams::drawn) and that the
// host need not have read. REQUIRES that one within 0 .. table.rows - 1.
struct EmbedParams {
  const PackedMatrix* table = nullptr;
  const int32_t* ids = nullptr;    // [out.rows]
  const int32_t* drawn = nullptr;  // may be null where no id is below 0
  Tensor out;
};

// out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight.  x, out [rows, cols]; weight f32 [cols]; out may be x.
// With `residual`: residual[r] += x[r] first, and the sum is what is normalized.
struct RmsNormParams {
  Tensor x;
  Tensor residual;
  const float* weight = nullptr;
  float epsilon = 0;
  Tensor out;
};

// y[r] = concat_i(x[r] * W_i^T) + bias, or y[r] += that with `accumulate`.
//   x [rows, cols], every W_i.cols == x.cols; y [rows, sum of W_i.rows]; bias f32 [y.cols] or null.
// Several weights in one call (q, k, v; gate, up) may differ in format.
// With `norm_weight` (f32 [cols]) each row of x is first normalized as RmsNorm does it; x itself stays.
// With `gated` there are two weights, gate and up, of equally many rows, and y[r] [rows of one] is what
// GatedActivation makes of the two products: y never holds them. REQUIRES neither bias nor accumulate.
// Fused, a step has one barrier for each linear and writes no activation that only the next op reads.
struct LinearParams {
  Tensor x;
  const float* norm_weight = nullptr;
  float norm_epsilon = 0;
  absl::Span<const PackedMatrix* const> weights;  // (host)
  const float* bias = nullptr;
  Tensor y;
  bool accumulate = false;
  bool gated = false;
};

// Where the pair (i, j) that RoPE rotates together lies in a head.
enum class RopeLayout : uint8_t {
  kInterleaved,  // (2i, 2i + 1): Llama GGUF files, whose q and k rows are permuted for it
  kHalf,         // (i, i + rotary_dim / 2): Qwen2, and Hugging Face's Llama
};

// Whether a cache of this type keeps a scale beside its codes: one f32 for each token and kv head, for k and for v.
constexpr bool KvHasScales(DType type) { return type == DType::kI8 || type == DType::kF8E4M3; }

// Bytes of k (as many of v) of one kv head in one block: its codes, then its scales.
constexpr int64_t KvHeadBytes(DType type, int32_t block_size, int32_t head_dim) {
  const int64_t token_bytes = static_cast<int64_t>(SizeOf(type)) * head_dim + (KvHasScales(type) ? 4 : 0);
  return token_bytes * block_size;
}

// One layer of the paged cache: k, v [num_blocks, num_kv_heads] head blocks of KvHeadBytes. How a head block holds its
// block_size tokens is the backend's own (the CPU's keeps k transposed); only whole blocks may be copied.
// Slot s is token s % block_size of block s / block_size.
//   kF16, kBf16  rounded to nearest
//   kI8          symmetric: scale = max|x| / 127 of the token's row (head_dim values of one head), code = x / scale
//   kF8E4M3      scale = max|x| / 448 of the row, so that its largest value takes the largest code
// A row with a NaN or an infinity has a NaN for its scale: all of it reads as NaN, never as a number.
struct KvLayer {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kF16;
  int32_t num_blocks = 0;
  int32_t block_size = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
};

// Rotates the q and k heads of each row by its position, in place, then writes k and v to the row's slot.
//   qkv [tokens, (num_heads + 2 * num_kv_heads) * head_dim], heads in the order q.., k.., v..
//   cos_sin f32 [max_position, rotary_dim]: cos of pair i at [p][2i], sin at [p][2i + 1], any scaling included.
// REQUIRES rotary_dim <= head_dim, even; the rest of a head passes through.
struct RopeStoreKvParams {
  Tensor qkv;
  int32_t num_heads = 0;
  int32_t rotary_dim = 0;
  RopeLayout layout = RopeLayout::kInterleaved;
  const float* cos_sin = nullptr;
  const int32_t* positions = nullptr;  // [tokens]
  const int32_t* slots = nullptr;      // [tokens]
  KvLayer cache;
};

// Causal attention over the paged cache, prefill and decode rows together; grouped-query when num_heads is a
// multiple of num_kv_heads.  For sequence s, its query rows are cu_seqlens_q[s] .. cu_seqlens_q[s+1] - 1, they are
// the *last* rows of a context of context_lens[s] tokens (their own k and v are already stored), and query row i of
// n sees cache positions 0 .. context_lens[s] - n + i. Of what a step stores, a sequence sees only its own.
//   q [tokens, num_heads * head_dim] (the first columns of qkv; stride says so);  out [tokens, num_heads * head_dim]
//   block_table [num_seqs, max_blocks]: block of positions b * block_size ..
struct AttentionParams {
  Tensor q;
  int32_t num_heads = 0;
  KvLayer cache;
  int32_t num_seqs = 0;
  int32_t max_blocks = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1]
  const int32_t* context_lens = nullptr;  // [num_seqs]
  const int32_t* block_table = nullptr;
  float scale = 0;  // of q . k, usually 1 / sqrt(head_dim)
  Tensor out;
};

// out[r][i] = silu(gate_up[r][i]) * gate_up[r][cols + i].  gate_up [rows, 2 * cols], out [rows, cols].
struct GatedActivationParams {
  Tensor gate_up;
  Tensor out;
};

// out[i] = x[rows[i]].  out [n, cols].
struct GatherRowsParams {
  Tensor x;
  const int32_t* rows = nullptr;  // [out.rows]
  Tensor out;
};

// --- sampling -----------------------------------------------------------------------------------------------

struct TokenCount {
  int32_t id = 0;
  int32_t in_prompt = 0;  // occurrences
  int32_t in_output = 0;
};

struct LogitBias {
  int32_t id = 0;
  float bias = 0;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

// How to draw one token. The order of the steps, all on the row's logits:
//   1. forbidden ids and, where `allowed` is not empty, all others become -inf
//   2. logit += bias
//   3. repetition_penalty over ids seen in prompt or output: l > 0 ? l / p : l * p  (CTRL, arXiv 1909.05858)
//      presence_penalty subtracted once, frequency_penalty per occurrence, for ids seen in the output
//      A finite logit stays finite: what 2 and 3 would make larger than the largest float is that float, so that
//      no request can look like a broken device
//   4. temperature 0: argmax, lowest id on ties. Otherwise softmax(l / temperature), then
//   5. top_k (0 = off) -> top_p (1 = off) -> min_p (0 = off; of the largest probability), ties kept by lowest id
//   6. inverse CDF over the survivors, ids ascending, with one uniform from the counter (seed, counter)
// Log probabilities are natural, of the untouched logits over the full vocabulary (before step 1).
struct SampleRow {
  int32_t logits_row = 0;
  float temperature = 0;
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  uint64_t counter = 0;                  // the position of the token being drawn, in its sequence
  int32_t score_id = -1;                 // >= 0: draw nothing, only score this id (prompt log probabilities)
  int32_t num_logprobs = -1;             // -1 none; n >= 0: the chosen id's, and the n most likely
  absl::Span<const TokenCount> seen;     // needed when a penalty is set; ids unique
  absl::Span<const LogitBias> bias;
  absl::Span<const int32_t> allowed;
  absl::Span<const int32_t> forbidden;
};

struct SampledToken {
  int32_t id = 0;                 // drawn, or score_id
  float logprob = 0;              // set when num_logprobs >= 0
  std::vector<TokenLogprob> top;  // num_logprobs entries, most likely first, lowest id on ties
};

// Draws or scores rows of logits f32 [n, vocab_size]; out (host) [rows.size()] is valid after Synchronize().
// Logits are not changed. If a row's survivors are empty or not finite the fault is latched as "sample".
struct SampleParams {
  Tensor logits;
  absl::Span<const SampleRow> rows;  // (host)
  SampledToken* out = nullptr;       // (host)
  int32_t* drawn = nullptr;          // [rows.size()], or null: the ids once more, for EmbedParams::drawn
};

}  // namespace nibble
