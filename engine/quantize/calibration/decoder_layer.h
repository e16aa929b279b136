// One layer of a Llama-family decoder in plain f32, in steps, so that calibration sees the input of
// every linear and may change the weights between two steps.
//
// Why not DecoderModel with a hook: its linears are fused with the norms before them and with each
// other, so three of the four inputs never exist in memory; its weights are packed for a device at
// load, all layers at once, where GPTQ replaces one linear and runs on with it, one layer in
// memory. A test holds this forward to DecoderModel's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/quantize/methods/dense.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

enum class Linear : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kNumLinears = 7;

// The linears that share an input.
enum class Site : uint8_t { kAttention, kOutput, kFeedForward, kDown };
inline constexpr Site kSites[] = {Site::kAttention, Site::kOutput, Site::kFeedForward, Site::kDown};
std::vector<Linear> LinearsOf(Site site);
Site SiteOf(Linear linear);

// "blk.3.attn_q.weight", "blk.3.attn_norm.weight" (of kAttention), "blk.3.ffn_norm.weight".
std::string LinearName(int32_t layer, Linear linear);
std::string NormName(int32_t layer, Site site);

// [out, in] by the config.
struct LinearShape {
  int32_t rows = 0, cols = 0;
};
LinearShape ShapeOf(const ModelConfig& config, Linear linear);

struct LayerWeights {
  VectorF attention_norm, ffn_norm;
  VectorF bias[3];  // of q, k, v; empty: none
  MatrixF linear[kNumLinears];

  MatrixF& operator[](Linear which) { return linear[static_cast<int>(which)]; }
  const MatrixF& operator[](Linear which) const { return linear[static_cast<int>(which)]; }
};
// Dequantized, whatever the source holds. Errors of the source.
absl::StatusOr<LayerWeights> LoadLayer(const WeightSource& source, const ModelConfig& config,
                                       int32_t layer);
absl::StatusOr<MatrixF> LoadDense(const WeightSource& source, const std::string& name, int32_t rows,
                                  int32_t cols);

// x / sqrt(mean(x^2) + epsilon) * weight, of each row.
MatrixF NormRows(const MatrixF& x, const VectorF& weight, float epsilon);

// A window of tokens on its way through a layer: x is the residual, `input` that of the site it has
// come to. Before the first step and after the last, only x means something.
struct WindowState {
  MatrixF x;      // [tokens, hidden]
  MatrixF input;  // [tokens, in]
};

class DecoderLayer {
 public:
  // y of a linear for x; biases are added here.
  using Apply = absl::FunctionRef<MatrixF(Linear linear, const MatrixF& x)>;
  struct Vectors {
    const VectorF& attention_norm;
    const VectorF& ffn_norm;
    const VectorF* bias;  // [3]
  };

  // For windows of at most `max_tokens`. Attention has at most `max_scores` of a head's scores in
  // memory at once, or those of eight tokens: a long window need not have the square of its length.
  DecoderLayer(const ModelConfig& config, int32_t max_tokens, int64_t max_scores = kMaxScores);
  static constexpr int64_t kMaxScores = 1 << 20;  // 4 MiB

  // From the site before (for kAttention: from the layer's beginning) to the input of `site`.
  void Reach(Site site, const Vectors& vectors, Apply apply, WindowState& state) const;
  // From kDown to the layer's end; `input` is freed.
  void Finish(Apply apply, WindowState& state) const;

  // The parts of attention, for what goes through it backwards. Heads of q or k turned by the
  // angles of their positions; direction -1 turns them back.
  void Rotate(MatrixF& heads, float direction = 1) const;
  // [count, first + count]: what tokens first .. first + count - 1 of a head of q give to those
  // before them. Both of all tokens and rotated, queries times 1 / sqrt(head_dim).
  MatrixF Probabilities(const MatrixF& queries, const MatrixF& keys, int32_t head, int64_t first,
                        int64_t count) const;

 private:
  MatrixF Attend(const MatrixF& q, const MatrixF& k, const MatrixF& v) const;

  const ModelConfig config_;
  const int64_t max_scores_;
  std::vector<float> cos_sin_;  // MakeRopeTable
};

}  // namespace nibble::quantize
