#include "engine/hf_folder_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/hf_model.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/hf/model_folder.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::string_view kCopied[] = {"tokenizer.json", "tokenizer_config.json",
                                         "special_tokens_map.json", "generation_config.json",
                                         "chat_template.jinja"};

std::string Text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// An f32 as the shortest decimal that is it: 1e-05, not 9.999999747378752e-06.
double Short(float value) {
  for (int digits = 6; digits < 9; ++digits) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.*g", digits, static_cast<double>(value));
    const double parsed = std::strtod(text, nullptr);
    if (static_cast<float>(parsed) == value) return parsed;
  }
  return value;
}

bool IsAdded(TokenType type) {
  return type == TokenType::kControl || type == TokenType::kUserDefined ||
         type == TokenType::kUnknown;
}

TokenType TypeOf(const TokenizerSpec& spec, size_t id) {
  return spec.types.empty() ? TokenType::kNormal : spec.types[id];
}

Json AddedTokens(const TokenizerSpec& spec) {
  Json added = Json::array();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenType type = TypeOf(spec, id);
    if (!IsAdded(type)) continue;
    added.push_back({{"id", id},
                     {"content", spec.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != TokenType::kUserDefined}});
  }
  return added;
}

// Added tokens are in the vocabulary, too: `tokenizers` numbers those anew that are not, behind the
// vocabulary's size, and takes no notice of the id that "added_tokens" gives them.
Json Model(const TokenizerSpec& spec) {
  nlohmann::json vocab = nlohmann::json::object();  // sorted: looked up by name while it grows
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (TypeOf(spec, id) != TokenType::kUnused) vocab[spec.tokens[id]] = id;
  }
  Json merges = Json::array();
  for (const std::string& merge : spec.merges) {
    const size_t space = merge.find(' ', 1);
    merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", spec.ignore_merges.value_or(UsuallyIgnoresMerges(spec.pre))},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json PreTokenizer(absl::string_view pre, absl::string_view regex) {
  Json steps = Json::array();
  if (pre == "smollm") steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (!regex.empty()) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(regex)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(ByteLevel(regex.empty()));
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

// BOS before a text and EOS behind it, where they are added; null: neither.
Json PostProcessor(const TokenizerSpec& spec) {
  Json single = Json::array(), special = Json::object();
  const auto add = [&](int32_t id) {
    const std::string& token = spec.tokens[static_cast<size_t>(id)];
    single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    special[token] = {{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
  };
  if (spec.add_bos) add(spec.bos_id);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (spec.add_eos) add(spec.eos_id);
  if (special.empty()) return nullptr;
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(special)}};
}

Json TokenizerJson(const TokenizerSpec& spec, absl::string_view pre, absl::string_view regex) {
  Json normalizer = nullptr;
  if (spec.normalize_nfc) normalizer = {{"type", "NFC"}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", AddedTokens(spec)},
          {"normalizer", std::move(normalizer)},
          {"pre_tokenizer", PreTokenizer(pre, regex)},
          {"post_processor", PostProcessor(spec)},
          {"decoder", ByteLevel(true)},
          {"model", Model(spec)}};
}

Json TokenizerConfig(const TokenizerSpec& spec, int32_t context_length,
                     const std::optional<std::string>& chat_template) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"model_max_length", context_length},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", spec.add_bos},
                 {"add_eos_token", spec.add_eos}};
  const auto add = [&](const char* key, int32_t id) {
    if (id >= 0) config[key] = spec.tokens[static_cast<size_t>(id)];
  };
  add("bos_token", spec.bos_id);
  add("eos_token", spec.eos_id);
  add("pad_token", spec.pad_id);
  if (chat_template.has_value()) config["chat_template"] = *chat_template;
  return config;
}

// All that end a generation, EOS first.
std::vector<int32_t> Ends(const TokenizerSpec& spec) {
  std::vector<int32_t> ends = {spec.eos_id, spec.eot_id, spec.eom_id};
  ends.insert(ends.end(), spec.end_ids.begin(), spec.end_ids.end());
  std::vector<int32_t> unique;
  for (const int32_t id : ends) {
    const bool known = std::find(unique.begin(), unique.end(), id) != unique.end();
    if (id >= 0 && !known) unique.push_back(id);
  }
  return unique;
}

void AddIds(const TokenizerSpec& spec, Json& json) {
  const std::vector<int32_t> ends = Ends(spec);
  if (spec.bos_id >= 0) json["bos_token_id"] = spec.bos_id;
  if (ends.size() == 1) json["eos_token_id"] = ends[0];
  if (ends.size() > 1) json["eos_token_id"] = ends;
  if (spec.pad_id >= 0) json["pad_token_id"] = spec.pad_id;
}

Json RopeScalingJson(const ModelConfig& config) {
  switch (config.rope_scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      return {{"rope_type", "linear"}, {"factor", Short(config.rope_factor)}};
    case RopeScaling::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", Short(config.rope_factor)},
              {"low_freq_factor", Short(config.rope_low_freq_factor)},
              {"high_freq_factor", Short(config.rope_high_freq_factor)},
              {"original_max_position_embeddings", config.rope_original_context}};
  }
  return nullptr;
}

// The name among those of one rule that HfSplitRegex knows.
absl::string_view PreOf(absl::string_view pre) {
  if (pre == "phi-2") return "gpt-2";
  if (pre == "starcoder" || pre == "refact" || pre == "command-r") return "smollm";
  if (pre == "llama3" || pre == "llama-v3" || pre == "falcon3") return "llama-bpe";
  if (pre == "deepseek-r1-qwen") return "qwen2";
  return pre;
}

}  // namespace

absl::StatusOr<std::string> HfConfigJson(const ModelConfig& config, const TokenizerSpec& spec) {
  if (!config.rope_freq_factors.empty()) {
    return absl::UnimplementedError(
        "RoPE's frequencies are given one by one (rope_freqs.weight), for which config.json has no "
        "key; take the folder that the file was made from");
  }
  const bool llama = config.architecture == "llama";
  if (llama && config.qkv_bias) {
    return absl::UnimplementedError(
        "a Llama with biases of q, k and v and none of the output has no key in config.json");
  }
  Json json = {{"architectures", Json::array({llama ? "LlamaForCausalLM" : "Qwen2ForCausalLM"})},
               {"model_type", llama ? "llama" : "qwen2"},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"intermediate_size", config.ffn_size},
               {"num_hidden_layers", config.num_layers},
               {"num_attention_heads", config.num_heads},
               {"num_key_value_heads", config.num_kv_heads},
               {"head_dim", config.head_dim},
               {"hidden_act", "silu"},
               {"max_position_embeddings", config.context_length},
               {"rms_norm_eps", Short(config.rms_epsilon)},
               {"rope_theta", Short(config.rope_base)},
               {"rope_scaling", RopeScalingJson(config)},
               {"tie_word_embeddings", config.tied_head}};
  AddIds(spec, json);
  return Text(json);
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> HfTokenizerFiles(
    const TokenizerSpec& spec, int32_t context_length,
    const std::optional<std::string>& chat_template) {
  if (spec.model != TokenizerModel::kByteBpe) {
    return absl::UnimplementedError(
        "a SentencePiece vocabulary cannot be written as tokenizer.json here; take the folder that "
        "the file was made from");
  }
  const absl::string_view pre = PreOf(spec.pre);
  const std::optional<absl::string_view> regex = HfSplitRegex(pre);
  if (!regex.has_value()) {
    return absl::UnimplementedError(absl::StrCat(
        "pre-tokenizer '", spec.pre, "' cannot be written as tokenizer.json here; take the folder ",
        "that the file was made from"));
  }
  Json generation = Json::object();
  AddIds(spec, generation);
  return std::vector<std::pair<std::string, std::string>>{
      {"tokenizer.json", Text(TokenizerJson(spec, pre, *regex))},
      {"tokenizer_config.json", Text(TokenizerConfig(spec, context_length, chat_template))},
      {"generation_config.json", Text(generation)}};
}

absl::StatusOr<HfFolderFiles> HfFolderFilesOf(const ModelFile& file) {
  HfFolderFiles out;
  if (IsModelFolder(file.name())) {
    NIBBLE_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(file.name()));
    NIBBLE_ASSIGN_OR_RETURN(out.config_json, folder.ReadText(kHfConfig, JsonLimits().bytes));
    for (const absl::string_view name : kCopied) {
      if (!folder.Has(name)) continue;
      NIBBLE_ASSIGN_OR_RETURN(std::string text, folder.ReadText(name, kMaxTokenizerJson));
      out.files.emplace_back(std::string(name), std::move(text));
    }
    return out;
  }
  NIBBLE_ASSIGN_OR_RETURN(const ModelConfig config, file.Config());
  NIBBLE_ASSIGN_OR_RETURN(const TokenizerSpec spec, file.Vocabulary());
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<std::string> chat, file.ChatTemplateText());
  const auto named = [&file](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(file.name(), ": ", status.message()));
  };
  absl::StatusOr<std::string> json = HfConfigJson(config, spec);
  if (!json.ok()) return named(json.status());
  auto files = HfTokenizerFiles(spec, config.context_length, chat);
  if (!files.ok()) return named(files.status());
  out.config_json = *std::move(json);
  out.files = *std::move(files);
  return out;
}

}  // namespace nibble
