#include "engine/text/tokenizer.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/bridge_call.h"
#include "engine/text/utf8.h"
#include "engine/text/vocabulary.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// A pre-tokenizer by the name weight files give it. The names of one rule differ only in who used
// it first.
struct Split {
  absl::string_view pre;
  int32_t rule;
  bool
      ignore_merges;  // a whole word that is a token is that token, even where no merges lead to it
};
constexpr Split kSplits[] = {
    {"gpt-2", NIBBLE_SPLIT_GPT2, false},      {"phi-2", NIBBLE_SPLIT_GPT2, false},
    {"smollm", NIBBLE_SPLIT_SMOLLM, false},   {"starcoder", NIBBLE_SPLIT_SMOLLM, false},
    {"refact", NIBBLE_SPLIT_SMOLLM, false},   {"command-r", NIBBLE_SPLIT_SMOLLM, false},
    {"llama-bpe", NIBBLE_SPLIT_LLAMA3, true}, {"llama3", NIBBLE_SPLIT_LLAMA3, true},
    {"llama-v3", NIBBLE_SPLIT_LLAMA3, true},  {"falcon3", NIBBLE_SPLIT_LLAMA3, true},
    {"qwen2", NIBBLE_SPLIT_QWEN2, false},     {"deepseek-r1-qwen", NIBBLE_SPLIT_QWEN2, false},
};

absl::StatusOr<Split> SplitOf(const TokenizerSpec& spec) {
  if (spec.model == TokenizerModel::kSentencePiece)
    return Split{"", NIBBLE_SPLIT_SENTENCEPIECE, false};
  std::string known;
  for (const Split& split : kSplits) {
    if (split.pre == spec.pre) return split;
    absl::StrAppend(&known, known.empty() ? "" : ", ", split.pre);
  }
  return absl::UnimplementedError(absl::StrCat("tokenizer: pre-tokenizer '", spec.pre,
                                               "' is not known, these are: ", known,
                                               "; another would give wrong ids without a word"));
}

uint8_t KindOf(const Vocabulary& vocabulary, int32_t id) {
  switch (vocabulary.type(id)) {
    case TokenType::kUserDefined:
      return NIBBLE_TOKEN_USER;
    case TokenType::kUnknown:
    case TokenType::kControl:
      return NIBBLE_TOKEN_CONTROL;
    case TokenType::kByte:
      return NIBBLE_TOKEN_BYTE;
    case TokenType::kNormal:
    case TokenType::kUnused:
      return NIBBLE_TOKEN_TEXT;
  }
  return NIBBLE_TOKEN_NONE;
}

struct FreeTokenizer {
  void operator()(nibble_tokenizer* tokenizer) const { nibble_tokenizer_free(tokenizer); }
};
using BridgeTokenizer = std::unique_ptr<nibble_tokenizer, FreeTokenizer>;

absl::StatusOr<BridgeTokenizer> Build(const Vocabulary& vocabulary, const Split& split) {
  const TokenizerSpec& spec = vocabulary.spec();
  std::vector<nibble_str> tokens, merges;
  std::vector<uint8_t> kinds;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    tokens.push_back(ToBridge(spec.tokens[id]));
    kinds.push_back(KindOf(vocabulary, id));
  }
  for (const std::string& merge : spec.merges) merges.push_back(ToBridge(merge));
  nibble_vocabulary input = {};
  input.tokens = tokens.data();
  input.kinds = kinds.data();
  input.scores = split.rule == NIBBLE_SPLIT_SENTENCEPIECE ? spec.scores.data() : nullptr;
  input.num_tokens = tokens.size();
  input.merges = merges.data();
  input.num_merges = merges.size();
  input.split = split.rule;
  input.unk_id = spec.unk_id;
  input.ignore_merges = spec.ignore_merges.value_or(split.ignore_merges);
  input.normalize_nfc = spec.normalize_nfc;
  input.add_space_prefix = spec.add_space_prefix;

  nibble_tokenizer* tokenizer = nullptr;
  BridgeBuffer error;
  const absl::Status status =
      BridgeStatus(nibble_tokenizer_new(&input, &tokenizer, error.out()), error);
  if (!status.ok())
    return absl::Status(status.code(), absl::StrCat("tokenizer: ", status.message()));
  return BridgeTokenizer(tokenizer);
}

class LibraryTokenizer final : public Tokenizer {
 public:
  LibraryTokenizer(Vocabulary vocabulary, BridgeTokenizer bridge)
      : vocabulary_(std::move(vocabulary)), bridge_(std::move(bridge)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              EncodeOptions options) const override {
    NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> ids, Call(text, "", options.parse_special));
    if (options.add_special && spec().add_bos) ids.insert(ids.begin(), spec().bos_id);
    if (options.add_special && spec().add_eos) ids.push_back(spec().eos_id);
    return ids;
  }

  absl::StatusOr<std::vector<int32_t>> EncodeRendered(absl::string_view rendered,
                                                      absl::string_view guard) const override {
    return Call(rendered, guard, true);
  }

  absl::string_view TokenBytes(int32_t id, bool with_special) const override {
    NIBBLE_CHECK(id >= 0 && id < vocab_size());
    return IsSpecial(id) && !with_special ? absl::string_view() : vocabulary_.bytes(id);
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool with_special) const override {
    std::string bytes;
    bool is_first = strips_first_space();
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::OutOfRangeError(
            absl::StrCat("token id ", id, " is outside of 0 to ", vocab_size() - 1));
      }
      absl::string_view piece = TokenBytes(id, with_special);
      if (IsSpecial(id) || piece.empty()) {
        bytes.append(piece.data(), piece.size());
        continue;
      }
      if (std::exchange(is_first, false) && piece.front() == ' ') piece.remove_prefix(1);
      bytes.append(piece.data(), piece.size());
    }
    return ReplaceBrokenUtf8(bytes);
  }

  int32_t vocab_size() const override { return vocabulary_.size(); }
  int32_t bos_id() const override { return spec().bos_id; }
  int32_t eos_id() const override { return spec().eos_id; }
  absl::Span<const int32_t> end_of_generation_ids() const override {
    return vocabulary_.end_of_generation_ids();
  }
  bool IsSpecial(int32_t id) const override { return vocabulary_.IsSpecial(id); }
  bool strips_first_space() const override {
    return spec().model == TokenizerModel::kSentencePiece && spec().add_space_prefix;
  }

 private:
  const TokenizerSpec& spec() const { return vocabulary_.spec(); }

  absl::StatusOr<std::vector<int32_t>> Call(absl::string_view text, absl::string_view guard,
                                            bool parse_control) const {
    nibble_ids ids = {};
    BridgeBuffer error;
    const int32_t code = nibble_tokenizer_encode(bridge_.get(), ToBridge(text), ToBridge(guard),
                                                 parse_control, &ids, error.out());
    std::vector<int32_t> copy(ids.data, ids.data + ids.size);
    nibble_ids_free(&ids);
    NIBBLE_RETURN_IF_ERROR(BridgeStatus(code, error));
    return copy;
  }

  const Vocabulary vocabulary_;
  const BridgeTokenizer bridge_;
};

}  // namespace

bool UsuallyIgnoresMerges(absl::string_view pre) {
  for (const Split& split : kSplits) {
    if (split.pre == pre) return split.ignore_merges;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  NIBBLE_ASSIGN_OR_RETURN(const Split split, SplitOf(spec));
  NIBBLE_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(std::move(spec)));
  NIBBLE_ASSIGN_OR_RETURN(BridgeTokenizer bridge, Build(vocabulary, split));
  return std::make_unique<LibraryTokenizer>(std::move(vocabulary), std::move(bridge));
}

std::vector<std::string> SpecialTokenTexts(const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.IsSpecial(id)) continue;
    const absl::string_view text = tokenizer.TokenBytes(id, /*with_special=*/true);
    if (!text.empty()) texts.emplace_back(text);
  }
  return texts;
}

}  // namespace nibble
