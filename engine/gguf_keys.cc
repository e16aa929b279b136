#include "engine/gguf_keys.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/gguf_model.h"
#include "engine/model/rope_table.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace nibble {
namespace {

void SetShape(const ModelConfig& config, GgufKeys& keys) {
  const auto key = [&](absl::string_view suffix) {
    return absl::StrCat(config.architecture, ".", suffix);
  };
  keys.SetString("general.architecture", config.architecture);
  keys.SetString("general.type", "model");
  if (!config.name.empty()) keys.SetString("general.name", config.name);
  keys.SetU32(key("block_count"), config.num_layers);
  keys.SetU32(key("context_length"), config.context_length);
  keys.SetU32(key("embedding_length"), config.hidden_size);
  keys.SetU32(key("feed_forward_length"), config.ffn_size);
  keys.SetU32(key("attention.head_count"), config.num_heads);
  keys.SetU32(key("attention.head_count_kv"), config.num_kv_heads);
  keys.SetF32(key("attention.layer_norm_rms_epsilon"), config.rms_epsilon);
  keys.SetU32(key("attention.key_length"), config.head_dim);
  keys.SetU32(key("attention.value_length"), config.head_dim);
  keys.SetU32(key("vocab_size"), config.vocab_size);
  keys.SetU32(key("rope.dimension_count"), config.rotary_dim);
  keys.SetF32(key("rope.freq_base"), config.rope_base);
  if (config.rope_scaling == RopeScaling::kLinear) {
    keys.SetString(key("rope.scaling.type"), "linear");
    keys.SetF32(key("rope.scaling.factor"), config.rope_factor);
  }
}

void SetId(absl::string_view name, int32_t id, GgufKeys& keys) {
  if (id < 0) return;
  keys.SetU32(absl::StrCat("tokenizer.ggml.", name, "_token_id"), static_cast<uint32_t>(id));
}

// Rows of the embedding that no token has: llama.cpp wants a name for each.
std::vector<std::string> NamedTokens(const TokenizerSpec& spec) {
  std::vector<std::string> tokens = spec.tokens;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool unused = !spec.types.empty() && spec.types[id] == TokenType::kUnused;
    if (unused && tokens[id].empty()) tokens[id] = absl::StrCat("[PAD", id, "]");
  }
  return tokens;
}

// The one id that ends a generation and is neither EOS nor known by its name: EOT. -1: none.
absl::StatusOr<int32_t> EndOfTurn(const TokenizerSpec& spec) {
  TokenizerSpec as_read = spec;
  as_read.end_ids.clear();
  NIBBLE_ASSIGN_OR_RETURN(const Vocabulary wanted, Vocabulary::Create(spec));
  NIBBLE_ASSIGN_OR_RETURN(const Vocabulary known, Vocabulary::Create(std::move(as_read)));
  const absl::Span<const int32_t> found = known.end_of_generation_ids();
  std::vector<int32_t> missing;
  for (const int32_t id : wanted.end_of_generation_ids()) {
    if (std::find(found.begin(), found.end(), id) == found.end()) missing.push_back(id);
  }
  if (missing.empty()) return spec.eot_id;
  if (missing.size() == 1 && spec.eot_id < 0) return missing[0];
  return absl::UnimplementedError(absl::StrCat(
      "generation_config.json: 'eos_token_id' names ", missing.size(),
      " tokens beside EOS that end a generation, GGUF has a key for one (eot_token_id); leave the "
      "ones that the chat template uses"));
}

}  // namespace

absl::StatusOr<GgufKeys> GgufKeysOf(const ModelConfig& config, const TokenizerSpec& spec,
                                    const std::optional<std::string>& chat_template) {
  GgufKeys keys;
  SetShape(config, keys);
  const bool byte_bpe = spec.model == TokenizerModel::kByteBpe;
  if (byte_bpe && spec.ignore_merges.has_value() &&
      *spec.ignore_merges != UsuallyIgnoresMerges(spec.pre)) {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.json: 'ignore_merges' is ", *spec.ignore_merges ? "true" : "false",
                     ", GGUF has no key for it and means ", *spec.ignore_merges ? "false" : "true",
                     " for pre-tokenizer '", spec.pre, "'"));
  }
  keys.SetString("tokenizer.ggml.model", byte_bpe ? "gpt2" : "llama");
  keys.SetString("tokenizer.ggml.pre", spec.pre.empty() ? "default" : spec.pre);
  keys.SetStrings("tokenizer.ggml.tokens", NamedTokens(spec));
  if (!spec.scores.empty()) keys.SetFloats("tokenizer.ggml.scores", spec.scores);
  std::vector<int32_t> types;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    types.push_back(static_cast<int32_t>(spec.types.empty() ? TokenType::kNormal : spec.types[id]));
  }
  keys.SetInts("tokenizer.ggml.token_type", types);
  if (byte_bpe) keys.SetStrings("tokenizer.ggml.merges", spec.merges);
  SetId("bos", spec.bos_id, keys);
  SetId("eos", spec.eos_id, keys);
  SetId("unknown", spec.unk_id, keys);
  SetId("padding", spec.pad_id, keys);
  NIBBLE_ASSIGN_OR_RETURN(const int32_t eot, EndOfTurn(spec));
  SetId("eot", eot, keys);
  SetId("eom", spec.eom_id, keys);
  keys.SetBool("tokenizer.ggml.add_bos_token", spec.add_bos);
  keys.SetBool("tokenizer.ggml.add_eos_token", spec.add_eos);
  keys.SetBool("tokenizer.ggml.add_space_prefix", spec.add_space_prefix);
  if (spec.normalize_nfc) keys.SetBool(kNfcKey, true);
  if (chat_template.has_value()) keys.SetString("tokenizer.chat_template", *chat_template);
  return keys;
}

std::vector<float> RopeFactors(const ModelConfig& config) {
  if (!config.rope_freq_factors.empty()) return config.rope_freq_factors;
  if (config.rope_scaling != RopeScaling::kLlama3) return {};
  ModelConfig plain = config;
  plain.rope_scaling = RopeScaling::kNone;
  const std::vector<double> without = RopeFrequencies(plain), with = RopeFrequencies(config);
  std::vector<float> factors;
  for (size_t i = 0; i < with.size(); ++i) {
    factors.push_back(static_cast<float>(without[i] / with[i]));
  }
  return factors;
}

}  // namespace nibble
