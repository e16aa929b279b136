// A TokenizerSpec that was checked, and what follows from it alone: the bytes of each token, which
// are control tokens, which end a generation. Immutable.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/tokenizer_spec.h"

namespace nibble {

inline constexpr size_t kMaxVocabTokens = 1 << 21;  // eight times the largest in use
inline constexpr size_t kMaxTokenBytes = 1024;      // the longest in use are runs of 128 spaces
inline constexpr size_t kMaxVocabBytes = 64 << 20;  // 262,144 tokens take about 3 MiB
inline constexpr size_t kMaxVocabMerges = 1 << 22;  // twice the tokens

class Vocabulary {
 public:
  // INVALID_ARGUMENT names the entry, what it is and what is needed: an id out of range, arrays of
  // different lengths, a byte token that is not <0xNN>, a score that is not a number, more of
  // anything than the limits above. Duplicates and merges are found by the bridge, which has the
  // map.
  static absl::StatusOr<Vocabulary> Create(TokenizerSpec spec);

  const TokenizerSpec& spec() const { return spec_; }
  int32_t size() const { return static_cast<int32_t>(spec_.tokens.size()); }
  // A control token by its name (<|im_end|> ...) is one whatever the file says: some files call
  // them normal, and then user text could write them.
  TokenType type(int32_t id) const { return spec_.types[id]; }
  bool IsSpecial(int32_t id) const;
  absl::string_view bytes(
      int32_t id) const;  // what the token stands for, its own text for control tokens
  absl::Span<const int32_t> end_of_generation_ids() const { return end_ids_; }

 private:
  explicit Vocabulary(TokenizerSpec spec) : spec_(std::move(spec)) {}
  void FindEndOfGeneration();
  void JoinBytes();

  TokenizerSpec spec_;  // types filled in
  std::vector<int32_t> end_ids_;
  std::string bytes_;             // of all tokens
  std::vector<uint32_t> starts_;  // [size + 1] into bytes_
};

}  // namespace nibble
