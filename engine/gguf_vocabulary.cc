// ReadTokenizerSpec: the tokenizer.ggml.* keys of a GGUF file.
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/gguf_model.h"
#include "engine/model_file.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

constexpr size_t kMaxVocab = 1 << 21;
constexpr size_t kMaxTokenBytes = 1 << 16;
constexpr absl::string_view kTokensKey = "tokenizer.ggml.tokens";

class VocabularyReader {
 public:
  explicit VocabularyReader(const GgufFile& file) : file_(file) {}

  absl::StatusOr<TokenizerSpec> Read() {
    NIBBLE_RETURN_IF_ERROR(ReadModel());
    NIBBLE_RETURN_IF_ERROR(ReadTokens());
    NIBBLE_RETURN_IF_ERROR(ReadScores());
    NIBBLE_RETURN_IF_ERROR(ReadTypes());
    NIBBLE_RETURN_IF_ERROR(ReadMerges());
    NIBBLE_RETURN_IF_ERROR(ReadIds());
    NIBBLE_RETURN_IF_ERROR(ReadFlags());
    return std::move(spec_);
  }

 private:
  bool SentencePiece() const { return spec_.model == TokenizerModel::kSentencePiece; }

  absl::Status Corrupt(absl::string_view key, absl::string_view message) const {
    return absl::DataLossError(absl::StrCat(file_.name(), ": key '", key, "' ", message));
  }

  // Arrays that go with the tokens have one entry each.
  absl::Status CheckCount(absl::string_view key, size_t count) const {
    if (count == spec_.tokens.size()) return absl::OkStatus();
    return Corrupt(key, absl::StrCat("has ", count, " entries, needed one for each of the ",
                                     spec_.tokens.size(), " tokens"));
  }

  absl::Status ReadModel() {
    NIBBLE_ASSIGN_OR_RETURN(const std::string model, file_.GetString("tokenizer.ggml.model"));
    if (model != "gpt2" && model != "llama") {
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": tokenizer model ", QuoteForMessage(model),
                       " is not implemented, needed \"gpt2\" (byte-level BPE) or \"llama\" "
                       "(SentencePiece-BPE)"));
    }
    spec_.model = model == "gpt2" ? TokenizerModel::kByteBpe : TokenizerModel::kSentencePiece;
    if (file_.Has("tokenizer.ggml.pre")) {
      NIBBLE_ASSIGN_OR_RETURN(spec_.pre, file_.GetString("tokenizer.ggml.pre"));
    } else if (!SentencePiece()) {
      // Guessing would give wrong ids, and with them worse answers that nobody can explain.
      return absl::UnimplementedError(absl::StrCat(file_.name(),
                                                   ": key 'tokenizer.ggml.pre' is absent, needed "
                                                   "for byte-level BPE; convert the model again"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadTokens() {
    NIBBLE_ASSIGN_OR_RETURN(spec_.tokens, file_.GetStrings(kTokensKey));
    if (spec_.tokens.empty() || spec_.tokens.size() > kMaxVocab) {
      return Corrupt(kTokensKey, absl::StrCat("has ", spec_.tokens.size(), " entries, needed 1 to ",
                                              kMaxVocab));
    }
    for (size_t id = 0; id < spec_.tokens.size(); ++id) {
      if (spec_.tokens[id].size() <= kMaxTokenBytes) continue;
      return Corrupt(kTokensKey, absl::StrCat("has token ", id, " of ", spec_.tokens[id].size(),
                                              " bytes, needed at most ", kMaxTokenBytes));
    }
    // Ids the model can draw and ids the tokenizer can spell are the same.
    const GgufTensor* embedding = file_.Find("token_embd.weight");
    if (embedding != nullptr && embedding->dims.size() == 2 &&
        embedding->dims[1] != static_cast<int64_t>(spec_.tokens.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.name(), ": key '", kTokensKey, "' has ", spec_.tokens.size(),
                       " entries, tensor 'token_embd.weight' has ", embedding->dims[1], " rows"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadScores() {
    constexpr absl::string_view kKey = "tokenizer.ggml.scores";
    if (!file_.Has(kKey)) {
      if (!SentencePiece()) return absl::OkStatus();
      return Corrupt(kKey, "is absent, needed for SentencePiece-BPE");
    }
    NIBBLE_ASSIGN_OR_RETURN(spec_.scores, file_.GetFloats(kKey));
    NIBBLE_RETURN_IF_ERROR(CheckCount(kKey, spec_.scores.size()));
    for (size_t id = 0; id < spec_.scores.size(); ++id) {
      if (std::isnan(spec_.scores[id]))
        return Corrupt(kKey, absl::StrCat("holds nan for token ", id));
    }
    return absl::OkStatus();
  }

  absl::Status ReadTypes() {
    constexpr absl::string_view kKey = "tokenizer.ggml.token_type";
    if (!file_.Has(kKey)) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<int32_t> types, file_.GetInts(kKey));
    NIBBLE_RETURN_IF_ERROR(CheckCount(kKey, types.size()));
    spec_.types.reserve(types.size());
    for (size_t id = 0; id < types.size(); ++id) {
      if (types[id] < 0 || types[id] > static_cast<int32_t>(TokenType::kByte)) {
        return Corrupt(kKey,
                       absl::StrCat("holds ", types[id], " for token ", id, ", needed 0 to 6"));
      }
      spec_.types.push_back(types[id] == 0 ? TokenType::kNormal
                                           : static_cast<TokenType>(types[id]));
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges() {
    constexpr absl::string_view kKey = "tokenizer.ggml.merges";
    if (SentencePiece()) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(spec_.merges, file_.GetStrings(kKey));
    for (size_t i = 0; i < spec_.merges.size(); ++i) {
      const size_t space = spec_.merges[i].find(' ', 1);  // the left part may itself begin with one
      if (space != std::string::npos && space + 1 < spec_.merges[i].size()) continue;
      return Corrupt(kKey, absl::StrCat("has entry ", i, " of ", QuoteForMessage(spec_.merges[i]),
                                        ", needed \"left right\""));
    }
    return absl::OkStatus();
  }

  absl::Status ReadIds() {
    // SentencePiece files may leave these out. For byte-level BPE llama.cpp falls back to 11,
    // Falcon's, which is an ordinary token elsewhere: none is the safer default.
    NIBBLE_RETURN_IF_ERROR(ReadId("bos_token_id", SentencePiece() ? 1 : -1, spec_.bos_id));
    NIBBLE_RETURN_IF_ERROR(ReadId("eos_token_id", SentencePiece() ? 2 : -1, spec_.eos_id));
    NIBBLE_RETURN_IF_ERROR(ReadId("unknown_token_id", SentencePiece() ? 0 : -1, spec_.unk_id));
    NIBBLE_RETURN_IF_ERROR(ReadId("padding_token_id", -1, spec_.pad_id));
    NIBBLE_RETURN_IF_ERROR(ReadId("eot_token_id", -1, spec_.eot_id));
    return ReadId("eom_token_id", -1, spec_.eom_id);
  }

  absl::Status ReadId(absl::string_view suffix, int32_t absent, int32_t& id) const {
    const std::string key = absl::StrCat("tokenizer.ggml.", suffix);
    const auto size = static_cast<int64_t>(spec_.tokens.size());
    id = absent < size ? absent : -1;
    if (!file_.Has(key)) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(key));
    // -1 as a u32 is how some converters write "none".
    const bool none = value == -1 || value == std::numeric_limits<uint32_t>::max();
    if (!none && (value < 0 || value >= size)) {
      return Corrupt(key, absl::StrCat("is ", value, ", needed 0 to ", size - 1));
    }
    id = none ? -1 : static_cast<int32_t>(value);
    return absl::OkStatus();
  }

  absl::Status ReadFlags() {
    // Files of the Llama 3 family rely on this default: their key is often absent.
    const bool llama3 = spec_.pre == "llama-bpe" || spec_.pre == "llama3" ||
                        spec_.pre == "llama-v3" || spec_.pre == "falcon3" ||
                        spec_.pre == "tekken" || spec_.pre == "chameleon";
    NIBBLE_RETURN_IF_ERROR(
        ReadFlag("add_bos_token", SentencePiece() || llama3, spec_.bos_id, spec_.add_bos));
    NIBBLE_RETURN_IF_ERROR(ReadFlag("add_eos_token", false, spec_.eos_id, spec_.add_eos));
    NIBBLE_RETURN_IF_ERROR(
        ReadFlag("add_space_prefix", SentencePiece(), 0, spec_.add_space_prefix));
    if (!file_.Has(kNfcKey)) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(spec_.normalize_nfc, file_.GetBool(kNfcKey));
    return absl::OkStatus();
  }

  // `id` is the token the flag would add; -1 turns the default off and contradicts a flag that is
  // set.
  absl::Status ReadFlag(absl::string_view suffix, bool absent, int32_t id, bool& flag) const {
    const std::string key = absl::StrCat("tokenizer.ggml.", suffix);
    flag = absent && id >= 0;
    if (!file_.Has(key)) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(flag, file_.GetBool(key));
    if (flag && id < 0) return Corrupt(key, "is true, and the file names no such token");
    return absl::OkStatus();
  }

  const GgufFile& file_;
  TokenizerSpec spec_;
};

}  // namespace

absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(const GgufFile& file) {
  return VocabularyReader(file).Read();
}

}  // namespace nibble
