#include "engine/text/vocabulary.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// Tokens that end a turn or a text by their name, in the families that use them. The same list as
// llama.cpp's.
constexpr absl::string_view kEndNames[] = {"</s>",
                                           "<|eot_id|>",
                                           "<|im_end|>",
                                           "<|end|>",
                                           "<|return|>",
                                           "<|call|>",
                                           "<|flush|>",
                                           "<|calls|>",
                                           "<|endoftext|>",
                                           "<|eom_id|>",
                                           "<EOT>",
                                           "_<EOT>",
                                           "[EOT]",
                                           "[EOS]",
                                           "<|end_of_text|>",
                                           "<eos>",
                                           "<turn|>",
                                           "<end_of_turn>",
                                           "<end_of_utterance>",
                                           "<|tool_response>",
                                           "[e~[",
                                           "<｜end▁of▁sentence｜>"};

absl::Status CheckSize(absl::string_view what, size_t found, size_t limit) {
  if (found <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer: ", found, " ", what, ", at most ", limit, " are taken"));
}

absl::Status CheckArrays(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return absl::InvalidArgumentError("tokenizer: no tokens");
  NIBBLE_RETURN_IF_ERROR(CheckSize("tokens", spec.tokens.size(), kMaxVocabTokens));
  NIBBLE_RETURN_IF_ERROR(CheckSize("merges", spec.merges.size(), kMaxVocabMerges));
  if (!spec.types.empty() && spec.types.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", spec.types.size(),
                                                   " token types for ", spec.tokens.size(),
                                                   " tokens, as many are needed"));
  }
  const bool needs_scores = spec.model == TokenizerModel::kSentencePiece;
  if ((needs_scores || !spec.scores.empty()) && spec.scores.size() != spec.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", spec.scores.size(),
                                                   " scores for ", spec.tokens.size(),
                                                   " tokens, as many are needed"));
  }
  size_t total = 0;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    NIBBLE_RETURN_IF_ERROR(
        CheckSize(absl::StrCat("bytes in token ", id), spec.tokens[id].size(), kMaxTokenBytes));
    total += spec.tokens[id].size();
  }
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    NIBBLE_RETURN_IF_ERROR(CheckSize(absl::StrCat("bytes in merge ", i), spec.merges[i].size(),
                                     2 * kMaxTokenBytes + 1));
  }
  for (size_t id = 0; id < spec.scores.size(); ++id) {
    if (std::isnan(spec.scores[id])) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: the score of token ", id, " is not a number"));
    }
  }
  return CheckSize("bytes of token text", total, kMaxVocabBytes);
}

absl::Status CheckIds(const TokenizerSpec& spec) {
  const std::pair<absl::string_view, int32_t> ids[] = {{"bos", spec.bos_id},
                                                       {"eos", spec.eos_id},
                                                       {"eot", spec.eot_id},
                                                       {"unknown", spec.unk_id},
                                                       {"padding", spec.pad_id}};
  for (const auto& [name, id] : ids) {
    if (id < -1 || id >= static_cast<int64_t>(spec.tokens.size())) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: the ", name, " token is ", id,
                                                     ", it needs to be under ", spec.tokens.size(),
                                                     " or -1 for none"));
    }
  }
  for (const int32_t id : spec.end_ids) {
    if (id >= 0 && id < static_cast<int64_t>(spec.tokens.size())) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: token ", id,
                                                   " is to end a generation, it needs to be under ",
                                                   spec.tokens.size()));
  }
  if (spec.add_bos && spec.bos_id < 0) {
    return absl::InvalidArgumentError("tokenizer: a BOS token is to be added and there is none");
  }
  if (spec.add_eos && spec.eos_id < 0) {
    return absl::InvalidArgumentError("tokenizer: an EOS token is to be added and there is none");
  }
  return absl::OkStatus();
}

// The byte that "<0xNN>" stands for, -1 for any other text. Upper case, as everything that looks
// them up writes it.
int32_t ByteOf(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int32_t value = 0;
  for (const char digit : token.substr(3, 2)) {
    const bool is_decimal = digit >= '0' && digit <= '9';
    if (!is_decimal && (digit < 'A' || digit > 'F')) return -1;
    value = value * 16 + (is_decimal ? digit - '0' : digit - 'A' + 10);
  }
  return value;
}

absl::Status CheckTypes(const TokenizerSpec& spec) {
  std::bitset<256> bytes;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const auto number = static_cast<int32_t>(spec.types[id]);
    if (number < 1 || number > 6) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: token ", id, " has type ", number, ", 1 to 6 exist"));
    }
    if (spec.types[id] != TokenType::kByte) continue;
    const int32_t byte = ByteOf(spec.tokens[id]);
    if (byte < 0) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: byte token ", id, " is '",
                                                     absl::CHexEscape(spec.tokens[id]),
                                                     "', it needs the form <0xNN>"));
    }
    bytes.set(byte);
  }
  if (spec.model == TokenizerModel::kSentencePiece && !bytes.all() && spec.unk_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: ", bytes.count(),
                     " of 256 byte tokens and no unknown token: some text has no ids"));
  }
  return absl::OkStatus();
}

// Byte-level BPE writes bytes as characters: printable ones as themselves, the others as U+0100 and
// up.
std::array<int32_t, 512> MakeByteOfChar() {
  std::array<int32_t, 512> byte_of;
  byte_of.fill(-1);
  int32_t next = 0x100;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool is_printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    byte_of[is_printable ? byte : next++] = byte;
  }
  return byte_of;
}

// A token with a character that is no byte's is its own text.
std::string BytesOfByteLevel(absl::string_view token, const std::array<int32_t, 512>& byte_of) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const auto first = static_cast<uint8_t>(token[at]);
    const bool has_second =
        first >= 0xC2 && first < 0xC8 && at + 1 < token.size();  // U+0080 to U+01FF
    if (first >= 0x80 && !has_second) return std::string(token);
    const int32_t code = has_second ? (first & 0x1F) << 6 | (token[at + 1] & 0x3F) : first;
    if (byte_of[code] < 0) return std::string(token);
    bytes.push_back(static_cast<char>(byte_of[code]));
    at += has_second ? 2 : 1;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Create(TokenizerSpec spec) {
  NIBBLE_RETURN_IF_ERROR(CheckArrays(spec));
  if (spec.types.empty()) spec.types.assign(spec.tokens.size(), TokenType::kNormal);
  NIBBLE_RETURN_IF_ERROR(CheckIds(spec));
  NIBBLE_RETURN_IF_ERROR(CheckTypes(spec));
  Vocabulary vocabulary(std::move(spec));
  vocabulary.FindEndOfGeneration();
  vocabulary.JoinBytes();
  return vocabulary;
}

void Vocabulary::FindEndOfGeneration() {
  for (const int32_t id : {spec_.eos_id, spec_.eot_id}) {
    if (id >= 0) end_ids_.push_back(id);
  }
  end_ids_.insert(end_ids_.end(), spec_.end_ids.begin(), spec_.end_ids.end());
  for (int32_t id = 0; id < size(); ++id) {
    if (std::find(std::begin(kEndNames), std::end(kEndNames), spec_.tokens[id]) ==
        std::end(kEndNames))
      continue;
    end_ids_.push_back(id);
    spec_.types[id] = TokenType::kControl;
  }
  std::sort(end_ids_.begin(), end_ids_.end());
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
}

void Vocabulary::JoinBytes() {
  const std::array<int32_t, 512> byte_of = MakeByteOfChar();
  const bool is_sentencepiece = spec_.model == TokenizerModel::kSentencePiece;
  starts_.reserve(spec_.tokens.size() + 1);
  for (int32_t id = 0; id < size(); ++id) {
    starts_.push_back(static_cast<uint32_t>(bytes_.size()));
    const std::string& token = spec_.tokens[id];
    if (IsSpecial(id) || type(id) == TokenType::kUserDefined) {
      bytes_ += token;
    } else if (type(id) == TokenType::kByte) {
      bytes_.push_back(static_cast<char>(ByteOf(token)));
    } else {
      bytes_ += is_sentencepiece ? absl::StrReplaceAll(token, {{"▁", " "}})
                                 : BytesOfByteLevel(token, byte_of);
    }
  }
  starts_.push_back(static_cast<uint32_t>(bytes_.size()));
}

bool Vocabulary::IsSpecial(int32_t id) const {
  return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
}

absl::string_view Vocabulary::bytes(int32_t id) const {
  return absl::string_view(bytes_).substr(starts_[id], starts_[id + 1] - starts_[id]);
}

}  // namespace nibble
