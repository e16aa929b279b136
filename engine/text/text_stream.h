// One sequence's text as it grows: token ids in, whole UTF-8 out. Holds back an unfinished character and anything that
// may become a stop string, so neither a broken character nor part of a stop string is ever delivered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/text/tokenizer.h"

namespace nibble {

class TextStream {
 public:
  // `tokenizer` must outlive the stream. With `include_stop` a matched stop string is delivered as well.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop, bool include_stop);

  struct Step {
    std::string text;        // new, deliverable
    int32_t stop_index = -1; // >= 0: stop[stop_index] matched (the earliest match in the text); the stream is over
  };
  Step Append(int32_t token_id);
  // Everything held back, U+FFFD for bytes that never became a character. The stream is over.
  std::string Finish();

  // Bytes held back now; bounded by the longest stop string plus one character.
  int32_t held_bytes() const;

 private:
  const Tokenizer* tokenizer_;
  std::vector<std::string> stop_;
  bool include_stop_;
  bool first_ = true;
  std::string bytes_;  // undelivered: whole characters that may be a stop's beginning, then at most 3 broken bytes
};

}  // namespace nibble
