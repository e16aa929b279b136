// Memory arithmetic for a model that need not exist: what its weights take in a format, what its
// KV cache takes in a type, and how many sequences fit beside the weights. Everything is a count of
// bytes that a file or an allocation has; activations and workspace are not in it.
//
//   weights    every matrix, embedding and head too, in the format; norms and biases as f32
//   KV cache   2 (k and v) * layers * kv heads * (head_dim * bytes of the type, and scales where
//              the type has them) a token. With grouped queries the kv heads are fewer than the
//              heads, and the cache is smaller by that much.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/model_config.h"
#include "engine/quantize/methods/scheme.h"
#include "engine/weights/gguf_file.h"
#include "kernels/tensor.h"

namespace nibble {

// "4-bit": codes alone, no scales, which is how "70B in 4 bits is 35 GB" counts.
struct BareCodes {
  int bits = 4;  // 1 .. 32
};

struct WeightFormat {
  std::string name;
  std::variant<BareCodes, GgmlType, quantize::Scheme> kind;
};

// "4-bit", a ggml type in either case ("q4_k"), or a scheme (engine/quantize/methods/scheme.h).
// INVALID_ARGUMENT quotes what is none of them.
absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view name);

struct WeightsPlan {
  double bits_per_weight = 0;  // file_bytes over the parameters
  int64_t file_bytes = 0;      // of tensors; headers and vocabulary are some MB more
  int64_t loaded_bytes = 0;    // in the canonical format this program holds it in: often the same
};

// Of the matrices, norms and biases of the shape; a tied head is counted once.
int64_t NumParameters(const ModelConfig& config);

// INVALID_ARGUMENT when rows of a matrix are not whole groups of the format: `nibble quantize`
// takes another type for such a matrix.
absl::StatusOr<WeightsPlan> PlanWeights(const ModelConfig& config, const WeightFormat& format);
// For a number of parameters of unknown shape: all of them in matrices with rows of 8192.
WeightsPlan PlanWeights(int64_t num_parameters, const WeightFormat& format);

struct KvPlan {
  int64_t layer_token_bytes = 0;    // one layer, one token
  int64_t token_bytes = 0;          // all layers
  int64_t block_bytes = 0;          // a block of block_size tokens
  int64_t blocks_per_sequence = 0;  // of `context` tokens, the last block may be partly used
  int64_t sequence_bytes = 0;       // those blocks
};

// REQUIRES layers, kv heads and head_dim of 1 or more, block_size a power of two of 8 to 256 and
// context >= 1; `type` one that a cache can have (kv_cache.h).
KvPlan PlanKvCache(const ModelConfig& config, DType type, int32_t block_size, int64_t context);

struct FitPlan {
  int64_t cache_bytes = 0;  // what the weights leave; negative: they do not fit
  int64_t num_blocks = 0;
  int64_t sequences = 0;  // of the context of `kv`, all of them full
};
FitPlan PlanFit(int64_t memory_bytes, int64_t weights_bytes, const KvPlan& kv);

}  // namespace nibble
