#include "engine/text/text_stream.h"

#include <algorithm>
#include <utility>

#include "engine/text/utf8.h"

namespace nibble {

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stop, bool include_stop,
                       bool continues)
    : tokenizer_(&tokenizer), include_stop_(include_stop), first_(!continues) {
  for (std::string& text : stop) {
    Matcher matcher;
    matcher.border.assign(text.size(), 0);
    for (size_t i = 1; i < text.size(); ++i) {
      int32_t length = matcher.border[i - 1];
      while (length > 0 && text[i] != text[length]) length = matcher.border[length - 1];
      matcher.border[i] = length + (text[i] == text[length] ? 1 : 0);
    }
    matcher.stop = std::move(text);
    matchers_.push_back(std::move(matcher));
  }
}

// REQUIRES: the stop string is not empty and not matched already.
void TextStream::Matcher::Advance(char byte) {
  while (matched > 0 && stop[matched] != byte) matched = border[matched - 1];
  if (stop[matched] == byte) ++matched;
}

TextStream::Step TextStream::Append(int32_t token_id) {
  absl::string_view piece = tokenizer_->TokenBytes(token_id);
  if (over_ || piece.empty()) return {};
  if (std::exchange(first_, false) && tokenizer_->strips_first_space() && piece.front() == ' ') {
    piece.remove_prefix(1);
  }
  broken_.append(piece.data(), piece.size());
  const size_t seen = held_.size();
  broken_.erase(0, broken_.size() - AppendWholeUtf8(broken_, held_));

  int32_t longest_prefix = 0;
  for (size_t at = seen; at < held_.size(); ++at) {
    int32_t found = -1;
    longest_prefix = 0;
    for (size_t i = 0; i < matchers_.size(); ++i) {
      Matcher& matcher = matchers_[i];
      if (matcher.stop.empty()) continue;
      matcher.Advance(held_[at]);
      longest_prefix = std::max(longest_prefix, matcher.matched);
      const bool is_whole = matcher.matched == static_cast<int32_t>(matcher.stop.size());
      if (is_whole && (found < 0 || matcher.stop.size() > matchers_[found].stop.size())) {
        found = static_cast<int32_t>(i);
      }
    }
    if (found >= 0) return EndAt(at + 1, found);
  }
  if (held_.size() == seen)
    return {};  // an unfinished character: what was held may still become a stop string
  const size_t num_safe = held_.size() - longest_prefix;
  Step step{held_.substr(0, num_safe)};
  held_.erase(0, num_safe);
  return step;
}

TextStream::Step TextStream::EndAt(size_t end, int32_t stop_index) {
  over_ = true;
  Step step{std::exchange(held_, {}), stop_index};
  step.text.resize(include_stop_ ? end : end - matchers_[stop_index].stop.size());
  broken_.clear();
  return step;
}

std::string TextStream::Finish() {
  std::string text;
  if (!over_) text = std::exchange(held_, {}) + ReplaceBrokenUtf8(std::exchange(broken_, {}));
  over_ = true;
  return text;
}

int32_t TextStream::held_bytes() const {
  return static_cast<int32_t>(held_.size() + broken_.size());
}

}  // namespace nibble
