// One sequence's text as it grows: token ids in, whole UTF-8 out. Holds back an unfinished
// character and anything that may become a stop string, so neither a broken character nor part of a
// stop string is ever delivered.
//
// Where the model's tokenizer says so, the first piece of a text loses its leading space (the
// SentencePiece rule); a stream that goes on with a text has no such piece.
//
// The text is that of the joined bytes: how they are cut into tokens changes when text is
// delivered, never which. One engine thread owns a stream. A token costs time in proportion to its
// own bytes times the number of stop strings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/text/tokenizer.h"

namespace nibble {

class TextStream {
 public:
  // `tokenizer` must outlive the stream. With `include_stop` a matched stop string is delivered as
  // well. An empty stop string never matches. `continues`: text came before, which is not of this
  // stream.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop, bool include_stop,
             bool continues = false);

  struct Step {
    std::string text;         // new, deliverable
    int32_t stop_index = -1;  // >= 0: stop[stop_index] matched; the stream is over
  };
  // The stop string that is complete first ends the stream (of several that end at the same byte,
  // the longest). After the end, steps are empty.
  Step Append(int32_t token_id);
  // Everything held back, U+FFFD for bytes that never became a character. The stream is over.
  std::string Finish();

  // Bytes held back now; bounded by the longest stop string plus one character.
  int32_t held_bytes() const;

 private:
  // Knuth, Morris and Pratt's automaton of one stop string.
  struct Matcher {
    std::string stop;
    std::vector<int32_t>
        border;           // [i] the longest proper prefix of stop[0, i] that is also its end
    int32_t matched = 0;  // the longest prefix of `stop` that the text ends with

    void Advance(char byte);
  };

  Step EndAt(size_t end, int32_t stop_index);

  const Tokenizer* tokenizer_;
  std::vector<Matcher> matchers_;
  bool include_stop_;
  bool first_;  // no piece of the text has come yet
  bool over_ = false;
  std::string held_;    // whole characters that may be a stop string's beginning
  std::string broken_;  // at most 3 bytes of a character that is not complete
};

}  // namespace nibble
