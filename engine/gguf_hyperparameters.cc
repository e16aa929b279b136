#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/config_bounds.h"
#include "engine/gguf_model.h"
#include "engine/weights/printable.h"
#include "engine/weights/weight_source.h"

namespace nibble {
namespace {

absl::Status NotImplemented(const GgufFile& file, const std::string& key, absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(
      file.name(), ": key '", key, "' is ", file.Describe(key), ": ", what, " is not implemented"));
}

// The keys of one file under its architecture's prefix.
class HyperparameterReader {
 public:
  HyperparameterReader(const GgufFile& file, ModelConfig& config) : file_(file), config_(config) {}

  absl::Status Read() {
    NIBBLE_RETURN_IF_ERROR(ReadArchitecture());
    NIBBLE_RETURN_IF_ERROR(RefuseOtherMaths());
    NIBBLE_RETURN_IF_ERROR(ReadSizes());
    NIBBLE_RETURN_IF_ERROR(ReadHeads());
    NIBBLE_RETURN_IF_ERROR(ReadRope());
    NIBBLE_RETURN_IF_ERROR(ReadRopeScaling());
    NIBBLE_RETURN_IF_ERROR(ReadVocab());
    config_.tied_head = file_.Find("output.weight") == nullptr;
    config_.qkv_bias = file_.Find("blk.0.attn_q.bias") != nullptr;
    return absl::OkStatus();
  }

 private:
  std::string Key(absl::string_view suffix) const {
    return absl::StrCat(config_.architecture, ".", suffix);
  }

  // INVALID_ARGUMENT "<file>: key '<suffix>' is <what it holds>, <needed>".
  absl::Status Unfit(const std::string& key, absl::string_view needed) const {
    return absl::InvalidArgumentError(
        absl::StrCat(file_.name(), ": key '", key, "' is ", file_.Describe(key), ", ", needed));
  }
  absl::Status NotImplemented(const std::string& key, absl::string_view what) const {
    return nibble::NotImplemented(file_, key, what);
  }

  absl::StatusOr<int32_t> Int(absl::string_view suffix, int64_t max,
                              std::optional<int64_t> absent = std::nullopt) const {
    const std::string key = Key(suffix);
    if (absent.has_value() && !file_.Has(key)) return static_cast<int32_t>(*absent);
    NIBBLE_ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(key));
    if (value < 1 || value > max) return Unfit(key, absl::StrCat("needed 1 to ", max));
    return static_cast<int32_t>(value);
  }

  absl::StatusOr<float> PositiveFloat(absl::string_view suffix,
                                      std::optional<float> absent = std::nullopt) const {
    const std::string key = Key(suffix);
    if (absent.has_value() && !file_.Has(key)) return *absent;
    NIBBLE_ASSIGN_OR_RETURN(const double value, file_.GetFloat(key));
    const auto narrowed = static_cast<float>(value);
    if (!std::isfinite(narrowed) || narrowed <= 0)
      return Unfit(key, "needed a positive finite number");
    return narrowed;
  }

  absl::Status ReadArchitecture() {
    NIBBLE_ASSIGN_OR_RETURN(config_.architecture, file_.GetString("general.architecture"));
    if (config_.architecture != "llama" && config_.architecture != "qwen2") {
      const std::string found = QuoteForMessage(config_.architecture);
      config_.architecture = IsUtf8(config_.architecture) ? config_.architecture : "";
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": architecture ", found,
                       " is not implemented, needed \"llama\" or \"qwen2\""));
    }
    const std::string base = file_.name().substr(file_.name().find_last_of('/') + 1);
    const absl::StatusOr<std::string> name = file_.GetString("general.name");
    config_.name = name.ok() && !name->empty() && IsUtf8(*name) ? *name : base;
    return absl::OkStatus();
  }

  // Keys that change what the model computes, and the value at which each does nothing.
  absl::Status RefuseOtherMaths() const {
    constexpr struct {
      const char* suffix;
      double neutral;
      const char* what;
    } kOther[] = {
        {"expert_count", 0, "a mixture of experts"},
        {"expert_used_count", 0, "a mixture of experts"},
        {"attention.clamp_kqv", 0, "clamping of q, k and v"},
        {"attention.max_alibi_bias", 0, "ALiBi"},
        {"attention.scale", 0, "an attention scale of its own"},
        {"attention.causal", 1, "attention that is not causal"},
        {"attention.temperature_scale", 0, "attention temperature"},
        {"attn_logit_softcapping", 0, "logit soft-capping"},
        {"final_logit_softcapping", 0, "logit soft-capping"},
        {"logit_scale", 1, "a logit scale"},
        {"embedding_scale", 1, "an embedding scale"},
        {"residual_scale", 1, "a residual scale"},
        {"rope.scaling.attn_factor", 1, "a RoPE attention factor"},
        {"use_parallel_residual", 0, "a parallel residual"},
        {"pooling_type", 0, "pooling (an embedding model)"},
    };
    for (const auto& other : kOther) {
      const std::string key = Key(other.suffix);
      if (!file_.Has(key)) continue;
      NIBBLE_ASSIGN_OR_RETURN(const double value, Number(key));
      if (value != other.neutral) return NotImplemented(key, other.what);
    }
    return CheckWholeModel(file_);
  }

  absl::StatusOr<double> Number(const std::string& key) const {
    if (const absl::StatusOr<double> value = file_.GetFloat(key); value.ok()) return value;
    if (const absl::StatusOr<bool> value = file_.GetBool(key); value.ok())
      return *value ? 1.0 : 0.0;
    NIBBLE_ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(key));
    return static_cast<double>(value);
  }

  absl::Status ReadSizes() {
    NIBBLE_ASSIGN_OR_RETURN(config_.num_layers, Int("block_count", kMaxLayers));
    // Every layer has tensors; a count beyond them is refused before anything is made of it.
    if (static_cast<size_t>(config_.num_layers) > file_.tensors().size()) {
      return Unfit(Key("block_count"),
                   absl::StrCat("the file has ", file_.tensors().size(), " tensors"));
    }
    NIBBLE_ASSIGN_OR_RETURN(config_.context_length, Int("context_length", kMaxContext));
    NIBBLE_ASSIGN_OR_RETURN(config_.hidden_size, Int("embedding_length", kMaxWidth));
    NIBBLE_ASSIGN_OR_RETURN(config_.ffn_size, Int("feed_forward_length", kMaxWidth));
    NIBBLE_ASSIGN_OR_RETURN(config_.rms_epsilon, PositiveFloat("attention.layer_norm_rms_epsilon"));
    if (config_.rms_epsilon >= 1)
      return Unfit(Key("attention.layer_norm_rms_epsilon"), "needed less than 1");
    // A window at least as long as the context never cuts anything off.
    const std::string window_key = Key("attention.sliding_window");
    if (file_.Has(window_key)) {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t window, file_.GetInt(window_key));
      if (window != 0 && window < config_.context_length)
        return NotImplemented(window_key, "sliding-window attention");
    }
    return absl::OkStatus();
  }

  absl::Status ReadHeads() {
    NIBBLE_ASSIGN_OR_RETURN(config_.num_heads, Int("attention.head_count", kMaxHeads));
    NIBBLE_ASSIGN_OR_RETURN(config_.num_kv_heads,
                            Int("attention.head_count_kv", kMaxHeads, config_.num_heads));
    if (config_.num_heads % config_.num_kv_heads != 0) {
      return Unfit(Key("attention.head_count_kv"),
                   absl::StrCat("needed a divisor of the ", config_.num_heads, " heads"));
    }
    if (!file_.Has(Key("attention.key_length")) && config_.hidden_size % config_.num_heads != 0) {
      return Unfit(Key("attention.head_count"),
                   absl::StrCat("needed a divisor of embedding_length ", config_.hidden_size,
                                ", or a key_length"));
    }
    const int32_t even_share = config_.hidden_size / config_.num_heads;
    NIBBLE_ASSIGN_OR_RETURN(config_.head_dim, Int("attention.key_length", kMaxHeadDim, even_share));
    NIBBLE_ASSIGN_OR_RETURN(const int32_t value_length,
                            Int("attention.value_length", kMaxHeadDim, config_.head_dim));
    if (value_length != config_.head_dim) {
      return NotImplemented(Key("attention.value_length"),
                            absl::StrCat("a length other than the key's ", config_.head_dim));
    }
    if (config_.head_dim > kMaxHeadDim ||
        int64_t{config_.num_heads} * config_.head_dim > kMaxWidth) {
      return Unfit(Key("attention.head_count"),
                   absl::StrCat("needed heads * head_dim (", config_.head_dim, ") of at most ",
                                kMaxWidth, " and head_dim of at most ", kMaxHeadDim));
    }
    return absl::OkStatus();
  }

  absl::Status ReadRope() {
    NIBBLE_ASSIGN_OR_RETURN(config_.rotary_dim,
                            Int("rope.dimension_count", kMaxHeadDim, config_.head_dim));
    if (config_.rotary_dim % 2 != 0 || config_.rotary_dim > config_.head_dim) {
      const std::string needed =
          absl::StrCat("needed an even number up to head_dim ", config_.head_dim);
      if (file_.Has(Key("rope.dimension_count"))) return Unfit(Key("rope.dimension_count"), needed);
      return absl::InvalidArgumentError(absl::StrCat(file_.name(), ": head_dim is ",
                                                     config_.head_dim, ", needed an even number"));
    }
    NIBBLE_ASSIGN_OR_RETURN(config_.rope_base, PositiveFloat("rope.freq_base", 10000.0f));
    // Converters permute the rows of Llama's q and k for the interleaved layout, and leave Qwen2's.
    config_.rope_layout =
        config_.architecture == "llama" ? RopeLayout::kInterleaved : RopeLayout::kHalf;
    return absl::OkStatus();
  }

  // Files say "none" or "linear"; Llama 3's scaling is rope_freqs.weight, one divisor a frequency.
  absl::Status ReadRopeScaling() {
    const std::string type_key = Key("rope.scaling.type");
    std::string type = "linear";  // what a factor alone has always meant
    if (file_.Has(type_key)) {
      NIBBLE_ASSIGN_OR_RETURN(type, file_.GetString(type_key));
      if (type != "none" && type != "linear") return NotImplemented(type_key, "this RoPE scaling");
    }
    const bool old_key = !file_.Has(Key("rope.scaling.factor"));
    NIBBLE_ASSIGN_OR_RETURN(
        const float factor,
        PositiveFloat(old_key ? "rope.scale_linear" : "rope.scaling.factor", 1.0f));
    if (type == "linear" && factor != 1.0f) {
      config_.rope_scaling = RopeScaling::kLinear;
      config_.rope_factor = factor;
    }
    NIBBLE_ASSIGN_OR_RETURN(
        config_.rope_original_context,
        Int("rope.scaling.original_context_length", kMaxContext, config_.context_length));
    if (file_.Find("rope_freqs.weight") == nullptr) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(
        config_.rope_freq_factors,
        MakeGgufSource(file_)->LoadVector("rope_freqs.weight", config_.rotary_dim / 2));
    for (const float divisor : config_.rope_freq_factors) {
      if (divisor > 0) continue;
      return absl::DataLossError(absl::StrCat(file_.name(), ": tensor 'rope_freqs.weight' holds ",
                                              divisor, ", needed positive divisors"));
    }
    return absl::OkStatus();
  }

  // The embedding's rows are the vocabulary; the key and the tokenizer must agree with it.
  absl::Status ReadVocab() {
    const GgufTensor* embedding = file_.Find("token_embd.weight");
    if (embedding == nullptr || embedding->dims.size() != 2) {
      return absl::NotFoundError(absl::StrCat(file_.name(), ": tensor 'token_embd.weight' is ",
                                              embedding == nullptr ? "absent" : "not a matrix",
                                              ", needed [vocabulary, ", config_.hidden_size, "]"));
    }
    if (embedding->dims[1] > kMaxVocab) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.name(), ": tensor 'token_embd.weight' has ", embedding->dims[1],
                       " rows, needed at most ", kMaxVocab));
    }
    config_.vocab_size = static_cast<int32_t>(embedding->dims[1]);
    NIBBLE_ASSIGN_OR_RETURN(const int32_t declared,
                            Int("vocab_size", kMaxVocab, config_.vocab_size));
    if (declared != config_.vocab_size) {
      return Unfit(Key("vocab_size"),
                   absl::StrCat("tensor 'token_embd.weight' has ", config_.vocab_size, " rows"));
    }
    return absl::OkStatus();
  }

  const GgufFile& file_;
  ModelConfig& config_;
};

}  // namespace

absl::Status CheckWholeModel(const GgufFile& file) {
  if (file.Has("split.count")) {
    NIBBLE_ASSIGN_OR_RETURN(const int64_t parts, file.GetInt("split.count"));
    if (parts > 1) {
      return NotImplemented(file, "split.count",
                            "a model in several files (merge them with llama-gguf-split)");
    }
  }
  if (!file.Has("general.type")) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(const std::string type, file.GetString("general.type"));
  if (type == "model") return absl::OkStatus();
  return NotImplemented(file, "general.type", "a file that is not a whole model");
}

absl::Status ReadHyperparameters(const GgufFile& file, ModelConfig& config) {
  return HyperparameterReader(file, config).Read();
}

}  // namespace nibble
