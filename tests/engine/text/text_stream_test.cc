// TextStream over a scripted vocabulary: whole characters, stop strings, and independence of how
// text is cut.
#include "engine/text/text_stream.h"

#include <algorithm>
#include <random>

#include "engine/text/utf8.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

// Token i is pieces[i].
class ScriptedTokenizer final : public Tokenizer {
 public:
  explicit ScriptedTokenizer(std::vector<std::string> pieces, bool strips_first_space = false)
      : pieces_(std::move(pieces)), strips_(strips_first_space) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view, EncodeOptions) const override {
    return absl::UnimplementedError("scripted");
  }
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(absl::string_view,
                                                      absl::string_view) const override {
    return absl::UnimplementedError("scripted");
  }
  absl::string_view TokenBytes(int32_t id, bool) const override { return pieces_[id]; }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>, bool) const override {
    return absl::UnimplementedError("scripted");
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos_id() const override { return -1; }
  int32_t eos_id() const override { return -1; }
  absl::Span<const int32_t> end_of_generation_ids() const override { return {}; }
  bool IsSpecial(int32_t) const override { return false; }
  bool strips_first_space() const override { return strips_; }

 private:
  std::vector<std::string> pieces_;
  bool strips_;
};

struct Total {
  std::string text;
  int32_t stop_index = -1;
  bool operator==(const Total&) const = default;
};

bool IsWholeUtf8(const std::string& text) {
  std::string out;
  return AppendWholeUtf8(text, out) == 0 && out == text;
}

// Runs the whole stream; every piece delivered must be whole UTF-8 and what is held must be
// bounded.
Total RunStream(const std::vector<std::string>& pieces, const std::vector<std::string>& stop,
                bool include_stop) {
  const ScriptedTokenizer tokenizer(pieces);
  TextStream stream(tokenizer, stop, include_stop);
  size_t longest = 0;
  for (const std::string& text : stop) longest = std::max(longest, text.size());
  Total total;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const TextStream::Step step = stream.Append(id);
    EXPECT_TRUE(IsWholeUtf8(step.text));
    EXPECT_LE(stream.held_bytes(), static_cast<int32_t>(longest + 4));
    total.text += step.text;
    if (step.stop_index < 0) continue;
    EXPECT_EQ(total.stop_index, -1) << "stopped twice";
    total.stop_index = step.stop_index;
  }
  const std::string rest = stream.Finish();
  EXPECT_TRUE(IsWholeUtf8(rest));
  EXPECT_EQ(stream.Finish(), "");
  total.text += rest;
  return total;
}

// What the stream must say, from the whole text at once.
Total Expected(const std::string& bytes, const std::vector<std::string>& stop, bool include_stop) {
  std::string whole;
  AppendWholeUtf8(bytes, whole);  // a stop string cannot end in bytes that are no character yet
  Total best{ReplaceBrokenUtf8(bytes), -1};
  size_t best_end = std::string::npos;
  for (size_t i = 0; i < stop.size(); ++i) {
    const size_t at = stop[i].empty() ? std::string::npos : whole.find(stop[i]);
    if (at == std::string::npos) continue;
    const size_t end = at + stop[i].size();
    const bool is_longer = end == best_end && stop[i].size() > stop[best.stop_index].size();
    if (end > best_end || (end == best_end && !is_longer)) continue;
    best_end = end;
    best = {whole.substr(0, include_stop ? end : at), static_cast<int32_t>(i)};
  }
  return best;
}

// All 2^(n-1) ways of cutting `bytes` into tokens.
void ExpectSameForEveryCut(const std::string& bytes, const std::vector<std::string>& stop) {
  for (const bool include_stop : {false, true}) {
    const Total expected = Expected(bytes, stop, include_stop);
    for (uint32_t cuts = 0; cuts < 1u << (bytes.size() - 1); ++cuts) {
      std::vector<std::string> pieces = {""};
      for (size_t i = 0; i < bytes.size(); ++i) {
        pieces.back().push_back(bytes[i]);
        if (cuts >> i & 1) pieces.emplace_back();
      }
      const Total total = RunStream(pieces, stop, include_stop);
      ASSERT_EQ(total, expected) << testing::PrintToString(bytes) << " cut as " << cuts << ": '"
                                 << total.text << "', not '" << expected.text << "'";
    }
  }
}

TEST(TextStream, EveryWayOfCuttingGivesTheSameText) {
  ExpectSameForEveryCut("a\xC3\xA9\xF0\x9F\x98\x80z", {});
  ExpectSameForEveryCut("\xE2\x82\xAC\xE2\x82\xAC!", {"\xE2\x82\xAC!"});
  ExpectSameForEveryCut("a\xFF\xE2\x82-\xF0\x9F\x98", {"-"});
  ExpectSameForEveryCut("\xED\xA0\x80\xC0\xAFok", {"ok"});
  ExpectSameForEveryCut("aabaabaaab", {"aabaaa"});
  ExpectSameForEveryCut("one STOP two", {"STOP"});
  ExpectSameForEveryCut("abcdefgh", {"cdx", "cdef", "def", "gh"});
  ExpectSameForEveryCut("ab\n\ncd", {"\n\n", "\n"});
  ExpectSameForEveryCut("STOPSTOP", {"STOPS", "TOPST", ""});
}

TEST(TextStream, AStopStringMatchesAcrossEveryBorder) {
  const std::string stop = "<end of it>";
  for (size_t first = 0; first <= stop.size(); ++first) {
    for (size_t second = first; second <= stop.size(); ++second) {
      const Total total =
          RunStream({"text ", stop.substr(0, first), stop.substr(first, second - first),
                     stop.substr(second), " more"},
                    {stop}, false);
      EXPECT_EQ(total, (Total{"text ", 0}));
    }
  }
}

TEST(TextStream, PartOfAStopStringIsHeldUntilItIsNone) {
  const ScriptedTokenizer tokenizer({"ab", "c", "x"});
  TextStream stream(tokenizer, {"abcd"}, false);
  EXPECT_EQ(stream.Append(0).text, "");
  EXPECT_EQ(stream.held_bytes(), 2);
  EXPECT_EQ(stream.Append(1).text, "");
  EXPECT_EQ(stream.Append(2).text, "abcx");
  EXPECT_EQ(stream.held_bytes(), 0);
}

TEST(TextStream, AnUnfinishedCharacterKeepsWhatIsHeld) {
  const ScriptedTokenizer tokenizer({"ab", "\xC3", "\xA9"});
  TextStream stream(tokenizer, {"ab\xC3\xA9"}, false);
  EXPECT_EQ(stream.Append(0).text, "");
  EXPECT_EQ(stream.Append(1).text, "");
  EXPECT_EQ(stream.Append(2).stop_index, 0);
}

TEST(TextStream, FinishDeliversWhatIsHeld) {
  const ScriptedTokenizer tokenizer({"xab", "\xF0\x9F"});
  TextStream stream(tokenizer, {"abcd"}, false);
  EXPECT_EQ(stream.Append(0).text, "x");
  EXPECT_EQ(stream.Append(1).text, "");
  EXPECT_EQ(stream.held_bytes(), 4);
  EXPECT_EQ(stream.Finish(), "ab\xEF\xBF\xBD");
  EXPECT_EQ(stream.Append(0).text, "") << "the stream is over";
}

TEST(TextStream, AfterAStopNothingMoreComes) {
  const ScriptedTokenizer tokenizer({"a#b", "c"});
  TextStream stream(tokenizer, {"#"}, true);
  const TextStream::Step step = stream.Append(0);
  EXPECT_EQ(step.text, "a#");
  EXPECT_EQ(step.stop_index, 0);
  EXPECT_EQ(stream.held_bytes(), 0);
  EXPECT_EQ(stream.Append(1).text, "");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TextStream, OnlyTheFirstPieceLosesItsSpace) {
  const ScriptedTokenizer tokenizer({"", " Hello", " world", " "}, true);
  TextStream stream(tokenizer, {}, false);
  EXPECT_EQ(stream.Append(0).text, "") << "a control token is no first piece";
  EXPECT_EQ(stream.Append(1).text, "Hello");
  EXPECT_EQ(stream.Append(2).text, " world");
  TextStream only_space(tokenizer, {}, false);
  EXPECT_EQ(only_space.Append(3).text, "");
  EXPECT_EQ(only_space.Append(3).text, " ");
}

TEST(TextStream, AStreamThatGoesOnWithATextKeepsItsSpace) {
  const ScriptedTokenizer tokenizer({" Hello"}, true);
  TextStream stream(tokenizer, {}, false, /*continues=*/true);
  EXPECT_EQ(stream.Append(0).text, " Hello");
}

TEST(TextStream, RandomBytesAndStopsAgreeWithTheWholeText) {
  const uint32_t seed = 20240607;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  const std::string alphabet = "aab\n\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xFF";
  const auto pick = [&](int n) { return static_cast<int>(rng() % static_cast<uint32_t>(n)); };
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    std::vector<std::string> pieces;
    for (int t = pick(12); t >= 0; --t) {
      std::string piece;
      for (int i = pick(5); i > 0; --i)
        piece.push_back(alphabet[pick(static_cast<int>(alphabet.size()))]);
      bytes += piece;
      pieces.push_back(std::move(piece));
    }
    std::vector<std::string> stop;
    for (int s = pick(4); s > 0; --s) {
      const size_t from = pick(static_cast<int>(bytes.size()) + 1);
      const std::string cut = bytes.substr(from, 1 + pick(5));
      stop.push_back(IsWholeUtf8(cut) ? cut : "ab");
    }
    for (const bool include_stop : {false, true}) {
      ASSERT_EQ(RunStream(pieces, stop, include_stop), Expected(bytes, stop, include_stop))
          << "round " << round;
    }
  }
}

}  // namespace
}  // namespace nibble
