// Text to token ids and back, by Hugging Face `tokenizers` behind engine/text/bridge. Immutable
// after Create and safe to share between threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/tokenizer_spec.h"

namespace nibble {

// Whether tokenizers of that `pre` take a whole word that is a token for that token, even where no
// merges lead to it, when the weight file does not say. False for one that is not known.
bool UsuallyIgnoresMerges(absl::string_view pre);

struct EncodeOptions {
  bool parse_special =
      false;  // "<|im_end|>" in the text becomes the control token, not its characters
  bool add_special = false;  // BOS / EOS where the file says so
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT names what the vocabulary lacks or has twice; UNIMPLEMENTED names an unknown
  // `pre`.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerSpec spec);
  virtual ~Tokenizer() = default;

  // INVALID_ARGUMENT for text that is not UTF-8, with the byte offset. Cost: proportional to
  // text.size().
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      EncodeOptions options) const = 0;

  // Encodes a rendered chat template: control tokens are parsed, except inside what users wrote,
  // which ChatTemplate::Apply marked.
  virtual absl::StatusOr<std::vector<int32_t>> EncodeRendered(absl::string_view rendered,
                                                              absl::string_view guard) const = 0;

  // The bytes a token stands for: possibly part of a character, empty for control tokens unless
  // `with_special`. REQUIRES 0 <= id < vocab_size().
  virtual absl::string_view TokenBytes(int32_t id, bool with_special = false) const = 0;

  // Whole-sequence decoding: bytes joined, broken UTF-8 replaced by U+FFFD. OUT_OF_RANGE names the
  // id.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                             bool with_special) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // -1: none
  virtual int32_t eos_id() const = 0;
  virtual absl::Span<const int32_t> end_of_generation_ids() const = 0;  // eos, eot, eom ..., sorted
  virtual bool IsSpecial(int32_t id) const = 0;                         // control or unknown
  // True for the SentencePiece rule that the first piece of a text loses its leading space.
  virtual bool strips_first_space() const = 0;
};

// The texts of all control and unknown tokens, by id: what message content must not smuggle in.
std::vector<std::string> SpecialTokenTexts(const Tokenizer& tokenizer);

}  // namespace nibble
