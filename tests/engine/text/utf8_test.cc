// Repair of broken UTF-8 as Python's bytes.decode("utf-8", "replace") does it.
#include "engine/text/utf8.h"

#include "gtest/gtest.h"
#include "tests/engine/text/text_vectors.h"

namespace nibble {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  EXPECT_EQ(ReplaceBrokenUtf8("ab"), "ab");
  EXPECT_EQ(ReplaceBrokenUtf8("\x80\xBF"), kBad + kBad);
  EXPECT_EQ(ReplaceBrokenUtf8("\xC0\xAF"), kBad + kBad);                        // overlong
  EXPECT_EQ(ReplaceBrokenUtf8("\xE0\x80\xAF"), kBad + kBad + kBad);             // overlong
  EXPECT_EQ(ReplaceBrokenUtf8("\xED\xA0\x80"), kBad + kBad + kBad);             // a surrogate
  EXPECT_EQ(ReplaceBrokenUtf8("\xF4\x90\x80\x80"), kBad + kBad + kBad + kBad);  // above U+10FFFF
  EXPECT_EQ(ReplaceBrokenUtf8("\xE2\x82"), kBad);                               // cut short: one
  EXPECT_EQ(ReplaceBrokenUtf8("\xF0\x9F\x98z"), kBad + "z");
  EXPECT_EQ(ReplaceBrokenUtf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBFz"),
            kBad + kBad + kBad + kBad + "z");  // table 3-8
}

// R for each U+FFFD of `text`, c for each other character.
std::string ShapeOf(const std::string& text) {
  std::string shape;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xC0) == 0x80) continue;
    shape.push_back(text.compare(i, 3, kBad) == 0 ? 'R' : 'c');
  }
  return shape;
}

// Every string of up to 4 bytes from one of each class, as Python decodes them (recorded by
// record_utf8.py).
TEST(Utf8, AgreesWithPythonOnEveryShortString) {
  const nlohmann::json vectors = ReadVectors("utf8.json");
  const auto alphabet = vectors.at("bytes").get<std::vector<int>>();
  const auto expected =
      vectors.at("characters").get<std::string>();  // shapes, each with a semicolon behind
  size_t at = 0;
  for (int length = 1; length <= 4; ++length) {
    std::vector<size_t> digits(length, 0);
    for (int i = 0; i >= 0;) {
      std::string bytes;
      for (const size_t digit : digits) bytes.push_back(static_cast<char>(alphabet[digit]));
      const int first = static_cast<uint8_t>(bytes[0]);
      if (length < 4 || first == 0xF0 || first == 0xF1 || first == 0xF4) {
        const size_t end = expected.find(';', at);
        ASSERT_EQ(ShapeOf(ReplaceBrokenUtf8(bytes)), expected.substr(at, end - at))
            << testing::PrintToString(bytes);
        at = end + 1;
      }
      for (i = length - 1; i >= 0 && ++digits[i] == alphabet.size(); --i) digits[i] = 0;
    }
  }
  EXPECT_EQ(at, expected.size());
}

TEST(Utf8, AnUnfinishedEndIsLeftForLater) {
  const std::string emoji = "\xF0\x9F\x98\x80";
  for (size_t cut = 0; cut <= emoji.size(); ++cut) {
    std::string out;
    const size_t left = AppendWholeUtf8(emoji.substr(0, cut), out);
    EXPECT_EQ(left, cut == 4 ? 0 : cut);
    EXPECT_EQ(out, cut == 4 ? emoji : "");
  }
  std::string out;
  EXPECT_EQ(AppendWholeUtf8("a\xED\xA0", out), 0u);  // certain to be broken already
  EXPECT_EQ(out, "a" + kBad + kBad);
}

}  // namespace
}  // namespace nibble
