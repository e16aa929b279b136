// A folder in Hugging Face's layout as a WeightSource: modules of a Llama or Qwen2 decoder under
// the names that GGUF gives their tensors, which are the names the model asks for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/hf/linear_layout.h"
#include "engine/weights/hf/tensor_set.h"
#include "engine/weights/weight_source.h"

namespace nibble {

// "model.layers.3.self_attn.q_proj" -> "blk.3.attn_q"; absent for a module that has no place in
// such a decoder.
std::optional<std::string> GgufNameOf(absl::string_view module);
// The way back: "blk.3.attn_q" -> "model.layers.3.self_attn.q_proj".
std::optional<std::string> HfModuleOf(absl::string_view gguf);

// The row of Hugging Face's q or k that is row `row` in GGUF's order: there RoPE turns neighbours,
// here it turns a row and the one half a head away.
int32_t HalfRowOf(int32_t row, int32_t head_dim);

struct HfSourceOptions {
  // Rows of q and k are given in GGUF's interleaved order: heads of as many rows; 0: as they are.
  // Scales, zeros and biases go with their rows.
  int32_t interleave_head_dim = 0;
  // Everything but tensors, for Identity: config.json's text.
  std::string config_text;
};

class HfSource : public WeightSource {
 public:
  struct Problem {
    std::string tensor;  // as GGUF names it, or the folder's own name where it has no place
    absl::Status status;
  };
  // What Report() shows as unreadable, in the order of names: layouts that OpenLinear refused, and
  // tensors that have no place in the decoder.
  virtual const std::vector<Problem>& problems() const = 0;
};

// Opens the layout of every module. `set` must outlive the source. Never fails as a whole: what one
// module lacks is its own problem, and LoadRows of it says so.
std::unique_ptr<HfSource> MakeHfSource(const TensorSet& set, const QuantConfig& config,
                                       HfSourceOptions options);

}  // namespace nibble
