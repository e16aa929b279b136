// ReadHfTokenizerSpec and ReadHfChatTemplate: tokenizer.json, tokenizer_config.json,
// generation_config.json, chat_template.jinja.
#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/hf_model.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

constexpr char kTokenizer[] = "tokenizer.json";
constexpr char kTokenizerConfig[] = "tokenizer_config.json";
constexpr char kGenerationConfig[] = "generation_config.json";
constexpr char kTemplate[] = "chat_template.jinja";
constexpr size_t kMaxTemplate = 1 << 20;  // as chat_template.h takes
// tokenizer_config.json repeats every added token, some models have thousands.
constexpr JsonLimits kConfigLimits = {.bytes = 8 << 20, .values = 1 << 19, .depth = 16};
// The largest vocabularies in use: 262,144 tokens and 580,000 merges, three values each.
constexpr JsonLimits kTokenizerLimits = {
    .bytes = kMaxTokenizerJson, .values = 4 << 20, .depth = 16};

// The regular expressions of pre-tokenizers, exactly as files have them, by the name of GGUF files.
struct Pattern {
  absl::string_view regex;
  absl::string_view pre;
};
constexpr Pattern kPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "gpt-2"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     "qwen2"}};

absl::StatusOr<JsonObject> ReadOptional(const ModelFolder& folder, absl::string_view file) {
  if (!folder.Has(file)) return JsonObject();
  return folder.ReadJson(file, kConfigLimits);
}

class TokenizerReader {
 public:
  TokenizerReader(const ModelFolder& folder, const JsonObject& config, int32_t vocab_size)
      : folder_(folder), config_(config), vocab_size_(vocab_size) {}

  absl::StatusOr<TokenizerSpec> Read() {
    if (!folder_.Has(kTokenizer)) {
      return absl::NotFoundError(
          absl::StrCat(folder_.name(), ": has no ", kTokenizer,
                       folder_.Has("tokenizer.model")
                           ? " but a tokenizer.model, which this program does not read; save the "
                             "tokenizer with save_pretrained"
                           : ""));
    }
    NIBBLE_ASSIGN_OR_RETURN(json_, folder_.ReadJson(kTokenizer, kTokenizerLimits));
    NIBBLE_ASSIGN_OR_RETURN(tokenizer_config_, ReadOptional(folder_, kTokenizerConfig));
    NIBBLE_RETURN_IF_ERROR(ReadModel());
    NIBBLE_RETURN_IF_ERROR(ReadAddedTokens());
    NIBBLE_RETURN_IF_ERROR(ReadNormalizer());
    NIBBLE_RETURN_IF_ERROR(ReadPreTokenizer());
    NIBBLE_RETURN_IF_ERROR(ReadIds());
    NIBBLE_RETURN_IF_ERROR(ReadPostProcessor());
    NIBBLE_RETURN_IF_ERROR(ReadEnds());
    return std::move(spec_);
  }

 private:
  absl::Status ReadModel() {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject model, json_.Object("model"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string type, model.String("type", "BPE"));
    if (type != "BPE") {
      return model.NotImplemented("type", "which is not implemented, needed BPE");
    }
    NIBBLE_ASSIGN_OR_RETURN(const bool fallback, model.Bool("byte_fallback", false));
    if (fallback) {
      return model.NotImplemented("byte_fallback",
                                  "SentencePiece-BPE, which is read from GGUF files only; convert "
                                  "the model to GGUF");
    }
    NIBBLE_ASSIGN_OR_RETURN(const double dropout, model.Number("dropout", 0.0));
    if (dropout != 0) return model.NotImplemented("dropout", "which is not implemented");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      NIBBLE_ASSIGN_OR_RETURN(const std::string text, model.String(key, ""));
      if (!text.empty()) return model.NotImplemented(key, "which is not implemented");
    }
    NIBBLE_ASSIGN_OR_RETURN(spec_.ignore_merges, model.Bool("ignore_merges", false));
    spec_.tokens.resize(static_cast<size_t>(vocab_size_));
    spec_.types.resize(spec_.tokens.size(), TokenType::kUnused);
    NIBBLE_RETURN_IF_ERROR(ReadVocabulary(model));
    NIBBLE_ASSIGN_OR_RETURN(const auto merges, model.Pairs("merges"));
    spec_.merges.reserve(merges.size());
    for (const auto& [left, right] : merges) {
      if (left.empty() || right.empty() || left.find(' ', 1) != std::string::npos) {
        return model.Unfit(
            "merges",
            absl::StrCat("entry ", spec_.merges.size(), " is ", QuoteForMessage(left), " and ",
                         QuoteForMessage(right), ", needed tokens without spaces"));
      }
      spec_.merges.push_back(absl::StrCat(left, " ", right));
    }
    return CheckUnknown(model);
  }

  absl::Status ReadVocabulary(const JsonObject& model) {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject vocab, model.Object("vocab"));
    for (const std::string& token : vocab.Keys()) {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t id, vocab.Int(token, 0, vocab_size_ - 1));
      NIBBLE_RETURN_IF_ERROR(Add(id, token, TokenType::kNormal));
    }
    return absl::OkStatus();
  }

  absl::Status Add(int64_t id, const std::string& token, TokenType type) {
    const auto at = static_cast<size_t>(id);
    const bool taken = spec_.types[at] != TokenType::kUnused;
    if ((taken && spec_.tokens[at] != token) || token.empty()) {
      return absl::DataLossError(absl::StrCat(
          folder_.name(), "/", kTokenizer, ": token ", id, " is ", QuoteForMessage(token),
          taken ? absl::StrCat(" and ", QuoteForMessage(spec_.tokens[at])) : ", needed a text"));
    }
    const auto [it, is_new] = ids_.emplace(token, static_cast<int32_t>(id));
    if (!is_new && it->second != id) {
      return absl::DataLossError(absl::StrCat(folder_.name(), "/", kTokenizer, ": token ",
                                              QuoteForMessage(token), " has ids ", it->second,
                                              " and ", id));
    }
    spec_.tokens[at] = token;
    spec_.types[at] = type;
    return absl::OkStatus();
  }

  // With an unknown token, a byte without a token becomes it; without one, it is left out.
  absl::Status CheckUnknown(const JsonObject& model) const {
    if (!model.Has("unk_token")) return absl::OkStatus();
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const int code = printable ? byte : next++;
      std::string symbol;
      if (code >= 0x80) symbol.push_back(static_cast<char>(0xC0 | code >> 6));
      symbol.push_back(static_cast<char>(code >= 0x80 ? 0x80 | (code & 0x3F) : code));
      if (ids_.count(symbol) != 0) continue;
      return model.NotImplemented("unk_token", absl::StrCat("and byte ", byte,
                                                            " has no token: an "
                                                            "unknown token is not implemented"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> tokens, json_.Objects("added_tokens"));
    for (const JsonObject& token : tokens) {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t id, token.Int("id", 0, vocab_size_ - 1));
      NIBBLE_ASSIGN_OR_RETURN(const std::string content, token.String("content"));
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        NIBBLE_ASSIGN_OR_RETURN(const bool set, token.Bool(key, false));
        if (set) {
          return token.NotImplemented(
              key, absl::StrCat("for token ", QuoteForMessage(content), ", not implemented"));
        }
      }
      NIBBLE_ASSIGN_OR_RETURN(const bool special, token.Bool("special", false));
      NIBBLE_RETURN_IF_ERROR(
          Add(id, content, special ? TokenType::kControl : TokenType::kUserDefined));
    }
    return absl::OkStatus();
  }

  absl::Status ReadNormalizer() {
    if (!json_.Has("normalizer")) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject normalizer, json_.Object("normalizer"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string type, normalizer.String("type"));
    if (type == "NFC") {
      spec_.normalize_nfc = true;
      return absl::OkStatus();
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> steps, normalizer.Objects("normalizers"));
    if (type == "Sequence" && steps.empty()) return absl::OkStatus();
    return normalizer.NotImplemented("type", "which is not implemented, these are: none, NFC");
  }

  // The steps of a Sequence, or the one step there is.
  absl::StatusOr<std::vector<JsonObject>> Steps(absl::string_view key,
                                                absl::string_view list) const {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject step, json_.Object(key));
    if (step.empty()) return std::vector<JsonObject>();
    NIBBLE_ASSIGN_OR_RETURN(const std::string type, step.String("type"));
    if (type == "Sequence") return step.Objects(list);
    return std::vector<JsonObject>{step};
  }

  absl::Status ReadPreTokenizer() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> steps,
                            Steps("pre_tokenizer", "pretokenizers"));
    bool digits = false, bytes = false;
    for (const JsonObject& step : steps) {
      NIBBLE_ASSIGN_OR_RETURN(const std::string type, step.String("type"));
      if (bytes) return step.NotImplemented("type", "behind ByteLevel, not implemented");
      if (type == "ByteLevel") {
        bytes = true;
        NIBBLE_RETURN_IF_ERROR(ReadByteLevel(step));
      } else if (type == "Digits" && spec_.pre.empty()) {
        NIBBLE_ASSIGN_OR_RETURN(digits, step.Bool("individual_digits", false));
        if (!digits) return step.NotImplemented("individual_digits", "not implemented");
      } else if (type == "Split" && spec_.pre.empty() && !digits) {
        NIBBLE_RETURN_IF_ERROR(ReadSplit(step));
      } else {
        return step.NotImplemented("type", "a way to cut words that is not implemented here");
      }
    }
    if (!bytes || spec_.pre.empty() || (digits && spec_.pre != "gpt-2")) {
      return json_.NotImplemented(
          "pre_tokenizer",
          "a way to cut words that is not implemented, needed ByteLevel, alone, behind Digits or "
          "behind a known Split");
    }
    if (digits) spec_.pre = "smollm";
    return absl::OkStatus();
  }

  absl::Status ReadByteLevel(const JsonObject& step) {
    NIBBLE_ASSIGN_OR_RETURN(const bool prefix, step.Bool("add_prefix_space", true));
    if (prefix) return step.NotImplemented("add_prefix_space", "which is not implemented");
    NIBBLE_ASSIGN_OR_RETURN(const bool regex, step.Bool("use_regex", true));
    if (regex && !spec_.pre.empty()) {
      return step.NotImplemented("use_regex", "behind a Split, not implemented");
    }
    if (regex) spec_.pre = "gpt-2";
    return absl::OkStatus();
  }

  absl::Status ReadSplit(const JsonObject& step) {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject pattern, step.Object("pattern"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string regex, pattern.String("Regex"));
    NIBBLE_ASSIGN_OR_RETURN(const std::string behavior, step.String("behavior"));
    NIBBLE_ASSIGN_OR_RETURN(const bool invert, step.Bool("invert", false));
    for (const Pattern& known : kPatterns) {
      if (regex == known.regex && behavior == "Isolated" && !invert)
        spec_.pre = std::string(known.pre);
    }
    if (!spec_.pre.empty()) return absl::OkStatus();
    return pattern.NotImplemented(
        "Regex",
        "a way to cut words that is not implemented, those of GPT-2, Llama 3 and Qwen2 are");
  }

  int32_t IdOf(const std::string& token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }

  // "<|im_end|>", or an object with it as "content".
  absl::StatusOr<int32_t> SpecialId(absl::string_view key) const {
    std::string text;
    if (tokenizer_config_.IsObject(key)) {
      NIBBLE_ASSIGN_OR_RETURN(const JsonObject token, tokenizer_config_.Object(key));
      NIBBLE_ASSIGN_OR_RETURN(text, token.String("content"));
    } else {
      NIBBLE_ASSIGN_OR_RETURN(text, tokenizer_config_.String(key, ""));
    }
    if (text.empty()) return -1;
    const int32_t id = IdOf(text);
    if (id < 0) return tokenizer_config_.Unfit(key, "which is no token of tokenizer.json");
    return id;
  }

  absl::Status ReadIds() {
    NIBBLE_ASSIGN_OR_RETURN(spec_.bos_id, SpecialId("bos_token"));
    NIBBLE_ASSIGN_OR_RETURN(spec_.eos_id, SpecialId("eos_token"));
    NIBBLE_ASSIGN_OR_RETURN(spec_.pad_id, SpecialId("pad_token"));
    if (spec_.bos_id < 0 && config_.Has("bos_token_id")) {
      NIBBLE_ASSIGN_OR_RETURN(const int64_t id, config_.Int("bos_token_id", 0, vocab_size_ - 1));
      spec_.bos_id = static_cast<int32_t>(id);
    }
    return absl::OkStatus();
  }

  // TemplateProcessing says which tokens stand around a text; where there is none,
  // tokenizer_config.json does.
  absl::Status ReadPostProcessor() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> steps,
                            Steps("post_processor", "processors"));
    bool has_template = false;
    for (const JsonObject& step : steps) {
      NIBBLE_ASSIGN_OR_RETURN(const std::string type, step.String("type"));
      if (type == "ByteLevel") continue;
      if (type != "TemplateProcessing" || has_template) {
        return step.NotImplemented("type", "a post-processor that is not implemented");
      }
      has_template = true;
      NIBBLE_RETURN_IF_ERROR(ReadTemplate(step));
    }
    if (has_template || !steps.empty()) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(spec_.add_bos, tokenizer_config_.Bool("add_bos_token", false));
    NIBBLE_ASSIGN_OR_RETURN(spec_.add_eos, tokenizer_config_.Bool("add_eos_token", false));
    return absl::OkStatus();
  }

  absl::Status ReadTemplate(const JsonObject& step) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> pieces, step.Objects("single"));
    bool seen_text = false;
    for (const JsonObject& piece : pieces) {
      if (piece.Has("Sequence") && !seen_text) {
        seen_text = true;
        continue;
      }
      NIBBLE_ASSIGN_OR_RETURN(const JsonObject token, piece.Object("SpecialToken"));
      NIBBLE_ASSIGN_OR_RETURN(const std::string text, token.String("id", ""));
      bool& added = seen_text ? spec_.add_eos : spec_.add_bos;
      int32_t& id = seen_text ? spec_.eos_id : spec_.bos_id;
      if (added || IdOf(text) < 0 || (id >= 0 && id != IdOf(text))) {
        return step.NotImplemented("single",
                                   absl::StrCat("of which ", QuoteForMessage(text),
                                                " is not the one BOS before or EOS behind a text"));
      }
      added = true;
      id = IdOf(text);
    }
    return absl::OkStatus();
  }

  absl::Status ReadEnds() {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject generation, ReadOptional(folder_, kGenerationConfig));
    for (const JsonObject* json : {&generation, &config_}) {
      constexpr absl::string_view kKey = "eos_token_id";
      std::vector<int64_t> ids;
      if (json->IsArray(kKey)) {
        NIBBLE_ASSIGN_OR_RETURN(ids, json->Ints(kKey));
      } else if (json->Has(kKey)) {
        NIBBLE_ASSIGN_OR_RETURN(const int64_t id, json->Int(kKey, 0, vocab_size_ - 1));
        ids = {id};
      }
      for (const int64_t id : ids) {  // generation_config.json's where it names any
        if (id < 0 || id >= vocab_size_) {
          return json->Unfit(kKey, absl::StrCat("needed ids from 0 to ", vocab_size_ - 1));
        }
        spec_.end_ids.push_back(static_cast<int32_t>(id));
        if (spec_.eos_id < 0) spec_.eos_id = static_cast<int32_t>(id);
      }
      if (!ids.empty()) break;
    }
    return absl::OkStatus();
  }

  const ModelFolder& folder_;
  const JsonObject& config_;
  const int32_t vocab_size_;
  JsonObject json_, tokenizer_config_;
  TokenizerSpec spec_;
  std::map<std::string, int32_t> ids_;
};

}  // namespace

absl::StatusOr<TokenizerSpec> ReadHfTokenizerSpec(const ModelFolder& folder,
                                                  const JsonObject& config, int32_t vocab_size) {
  return TokenizerReader(folder, config, vocab_size).Read();
}

std::optional<absl::string_view> HfSplitRegex(absl::string_view pre) {
  if (pre == "gpt-2" || pre == "smollm") return "";
  for (const Pattern& known : kPatterns) {
    if (pre == known.pre) return known.regex;
  }
  return std::nullopt;
}

absl::StatusOr<std::optional<std::string>> ReadHfChatTemplate(const ModelFolder& folder) {
  if (folder.Has(kTemplate)) {
    NIBBLE_ASSIGN_OR_RETURN(std::string text, folder.ReadText(kTemplate, kMaxTemplate));
    return std::optional<std::string>(std::move(text));
  }
  constexpr absl::string_view kKey = "chat_template";
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject json, ReadOptional(folder, kTokenizerConfig));
  if (!json.Has(kKey)) return std::optional<std::string>();
  if (!json.IsArray(kKey)) {
    NIBBLE_ASSIGN_OR_RETURN(std::string text, json.String(kKey));
    return std::optional<std::string>(std::move(text));
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<JsonObject> templates, json.Objects(kKey));
  for (const JsonObject& named : templates) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string name, named.String("name"));
    if (name != "default") continue;
    NIBBLE_ASSIGN_OR_RETURN(std::string text, named.String("template"));
    return std::optional<std::string>(std::move(text));
  }
  return std::optional<std::string>();
}

}  // namespace nibble
