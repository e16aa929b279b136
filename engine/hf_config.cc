// ReadHfConfig: the keys of config.json.
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/config_bounds.h"
#include "engine/hf_model.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

class ConfigReader {
 public:
  ConfigReader(const JsonObject& json, ModelConfig& config) : json_(json), config_(config) {}

  absl::Status Read() {
    NIBBLE_RETURN_IF_ERROR(ReadArchitecture());
    NIBBLE_RETURN_IF_ERROR(RefuseOtherMaths());
    NIBBLE_RETURN_IF_ERROR(ReadSizes());
    NIBBLE_RETURN_IF_ERROR(ReadHeads());
    NIBBLE_RETURN_IF_ERROR(RefuseWindows());
    return ReadRope();
  }

 private:
  absl::StatusOr<int32_t> Int(absl::string_view key, int64_t max,
                              std::optional<int64_t> absent = std::nullopt) const {
    NIBBLE_ASSIGN_OR_RETURN(const int64_t value, json_.Int(key, 1, max, absent));
    return static_cast<int32_t>(value);
  }

  static absl::StatusOr<float> Positive(const JsonObject& json, absl::string_view key,
                                        std::optional<double> absent = std::nullopt) {
    NIBBLE_ASSIGN_OR_RETURN(const double value, json.Number(key, absent));
    const auto narrowed = static_cast<float>(value);
    if (!std::isfinite(narrowed) || narrowed <= 0) {
      return json.Unfit(key, "needed a positive finite number");
    }
    return narrowed;
  }

  absl::Status ReadArchitecture() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, json_.Strings("architectures"));
    const std::string name = names.size() == 1 ? names[0] : "";
    if (name == "LlamaForCausalLM" || name == "MistralForCausalLM") {
      config_.architecture = "llama";
    } else if (name == "Qwen2ForCausalLM") {
      config_.architecture = "qwen2";
    } else {
      return json_.NotImplemented(
          "architectures",
          "which is not implemented, needed LlamaForCausalLM, MistralForCausalLM or "
          "Qwen2ForCausalLM");
    }
    is_mistral_ = name == "MistralForCausalLM";
    return absl::OkStatus();
  }

  // Keys that change what the model computes, and the value at which each does nothing.
  absl::Status RefuseOtherMaths() const {
    NIBBLE_ASSIGN_OR_RETURN(const std::string activation, json_.String("hidden_act", "silu"));
    if (activation != "silu" && activation != "swish") {
      return json_.NotImplemented("hidden_act", "an activation that is not implemented, silu is");
    }
    NIBBLE_ASSIGN_OR_RETURN(const bool mlp_bias, json_.Bool("mlp_bias", false));
    if (mlp_bias) return json_.NotImplemented("mlp_bias", "biases that are not implemented");
    constexpr struct {
      const char* key;
      double neutral;
      const char* what;
    } kOther[] = {
        {"partial_rotary_factor", 1, "a RoPE of part of a head"},
        {"num_local_experts", 0, "a mixture of experts"},
        {"num_experts", 0, "a mixture of experts"},
        {"logit_scale", 1, "a logit scale"},
        {"embedding_multiplier", 1, "an embedding scale"},
        {"residual_multiplier", 1, "a residual scale"},
        {"final_logit_softcapping", 0, "logit soft-capping"},
        {"attn_logit_softcapping", 0, "logit soft-capping"},
    };
    for (const auto& other : kOther) {
      NIBBLE_ASSIGN_OR_RETURN(const double value, json_.Number(other.key, other.neutral));
      if (value != other.neutral) {
        return json_.NotImplemented(other.key, absl::StrCat(other.what, ", not implemented"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadSizes() {
    NIBBLE_ASSIGN_OR_RETURN(config_.num_layers, Int("num_hidden_layers", kMaxLayers));
    NIBBLE_ASSIGN_OR_RETURN(config_.context_length, Int("max_position_embeddings", kMaxContext));
    NIBBLE_ASSIGN_OR_RETURN(config_.hidden_size, Int("hidden_size", kMaxWidth));
    NIBBLE_ASSIGN_OR_RETURN(config_.ffn_size, Int("intermediate_size", kMaxWidth));
    NIBBLE_ASSIGN_OR_RETURN(config_.vocab_size, Int("vocab_size", kMaxVocab));
    NIBBLE_ASSIGN_OR_RETURN(config_.rms_epsilon, Positive(json_, "rms_norm_eps", 1e-6));
    if (config_.rms_epsilon >= 1) return json_.Unfit("rms_norm_eps", "needed less than 1");
    // What transformers takes where the key is absent: false for these three.
    NIBBLE_ASSIGN_OR_RETURN(config_.tied_head, json_.Bool("tie_word_embeddings", false));
    return absl::OkStatus();
  }

  absl::Status ReadHeads() {
    NIBBLE_ASSIGN_OR_RETURN(config_.num_heads, Int("num_attention_heads", kMaxHeads));
    NIBBLE_ASSIGN_OR_RETURN(config_.num_kv_heads,
                            Int("num_key_value_heads", kMaxHeads, config_.num_heads));
    if (config_.num_heads % config_.num_kv_heads != 0) {
      return json_.Unfit("num_key_value_heads",
                         absl::StrCat("needed a divisor of the ", config_.num_heads, " heads"));
    }
    if (!json_.Has("head_dim") && config_.hidden_size % config_.num_heads != 0) {
      return json_.Unfit(
          "num_attention_heads",
          absl::StrCat("needed a divisor of hidden_size ", config_.hidden_size, ", or a head_dim"));
    }
    NIBBLE_ASSIGN_OR_RETURN(config_.head_dim,
                            Int("head_dim", kMaxHeadDim, config_.hidden_size / config_.num_heads));
    if (config_.head_dim % 2 != 0 || config_.head_dim > kMaxHeadDim ||
        int64_t{config_.num_heads} * config_.head_dim > kMaxWidth) {
      return json_.Unfit("head_dim", absl::StrCat("needed an even number up to ", kMaxHeadDim,
                                                  ", and heads * head_dim up to ", kMaxWidth));
    }
    config_.rotary_dim = config_.head_dim;
    return absl::OkStatus();
  }

  // A window at least as long as the context never cuts anything off.
  absl::Status RefuseWindows() const {
    NIBBLE_ASSIGN_OR_RETURN(const bool used, json_.Bool("use_sliding_window", is_mistral_));
    if (!used || !json_.Has("sliding_window")) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(const int64_t window, json_.Int("sliding_window", 0, kMaxContext));
    if (window >= config_.context_length) return absl::OkStatus();
    return json_.NotImplemented("sliding_window", "sliding-window attention, not implemented");
  }

  // "rope_scaling" beside "rope_theta", or all of it in "rope_parameters" (transformers 5).
  absl::Status ReadRope() {
    const bool is_new = json_.Has("rope_parameters");
    const char* key = is_new ? "rope_parameters" : "rope_scaling";
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject rope, json_.Object(key));
    const JsonObject& theta = is_new && rope.Has("rope_theta") ? rope : json_;
    NIBBLE_ASSIGN_OR_RETURN(config_.rope_base, Positive(theta, "rope_theta", 10000.0));
    // The source gives Llama's rows of q and k in the interleaved order, as GGUF files have them.
    config_.rope_layout =
        config_.architecture == "llama" ? RopeLayout::kInterleaved : RopeLayout::kHalf;
    config_.rope_original_context = config_.context_length;
    const char* type_key = rope.Has("rope_type") ? "rope_type" : "type";
    NIBBLE_ASSIGN_OR_RETURN(const std::string type, rope.String(type_key, "default"));
    if (type == "default") return absl::OkStatus();
    if (type != "linear" && type != "llama3") {
      return rope.NotImplemented(type_key,
                                 "a RoPE scaling that is not implemented, these are: default, "
                                 "linear, llama3");
    }
    NIBBLE_ASSIGN_OR_RETURN(config_.rope_factor, Positive(rope, "factor"));
    config_.rope_scaling = RopeScaling::kLinear;
    return type == "linear" ? absl::OkStatus() : ReadLlama3(rope);
  }

  absl::Status ReadLlama3(const JsonObject& rope) {
    config_.rope_scaling = RopeScaling::kLlama3;
    NIBBLE_ASSIGN_OR_RETURN(config_.rope_low_freq_factor, Positive(rope, "low_freq_factor"));
    NIBBLE_ASSIGN_OR_RETURN(config_.rope_high_freq_factor, Positive(rope, "high_freq_factor"));
    if (config_.rope_high_freq_factor <= config_.rope_low_freq_factor) {
      return rope.Unfit("high_freq_factor", "needed more than low_freq_factor");
    }
    NIBBLE_ASSIGN_OR_RETURN(const int64_t original,
                            rope.Int("original_max_position_embeddings", 1, kMaxContext));
    config_.rope_original_context = static_cast<int32_t>(original);
    return absl::OkStatus();
  }

  const JsonObject& json_;
  ModelConfig& config_;
  bool is_mistral_ = false;
};

}  // namespace

absl::Status ReadHfConfig(const JsonObject& json, const std::string& name, ModelConfig& config) {
  const std::string base = name.substr(name.find_last_of('/') + 1);
  config.name = IsUtf8(base) ? base : "";
  return ConfigReader(json, config).Read();
}

}  // namespace nibble
