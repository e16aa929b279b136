#include "engine/weights/printable.h"

#include "gtest/gtest.h"

namespace nibble {
namespace {

TEST(Printable, NamesAreOneOrMorePrintableAsciiCharacters) {
  EXPECT_TRUE(IsPrintableName("blk.0.attn_q.weight", 63));
  EXPECT_TRUE(IsPrintableName("abc", 3));
  EXPECT_FALSE(IsPrintableName("abcd", 3));
  EXPECT_FALSE(IsPrintableName("", 3));
  EXPECT_FALSE(IsPrintableName(absl::string_view("a\0b", 3), 3));
  EXPECT_FALSE(IsPrintableName("a\n", 3));
  EXPECT_FALSE(IsPrintableName("\x7F", 3));
  EXPECT_FALSE(IsPrintableName("\xC3\xA9", 3));
}

TEST(Printable, Utf8ExcludesOverlongSurrogatesAndBeyondTheLastPlane) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"));
  EXPECT_TRUE(IsUtf8("\xF4\x8F\xBF\xBF"));
  for (const char* broken :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x80\x80", "\xE2\x82", "\xED\xA0\x80",
        "\xF0\x80\x80\x80", "\xF0\x9F\x98", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_FALSE(IsUtf8(broken)) << broken;
    EXPECT_FALSE(IsUtf8(std::string("ok") + broken)) << broken;
  }
}

TEST(Printable, QuotesAreSafeForJsonAndLogs) {
  EXPECT_EQ(QuoteForMessage("llama"), "\"llama\"");
  EXPECT_EQ(QuoteForMessage("a\nb\"c"), "\"a\\nb\\\"c\"");
  EXPECT_EQ(QuoteForMessage("caf\xC3\xA9"), "\"caf\xC3\xA9\"");
  EXPECT_EQ(QuoteForMessage("\xFF!"), "\"\\xff!\"");
}

TEST(Printable, LongTextIsCutBetweenCharacters) {
  std::string text(119, 'x');
  text += "\xC3\xA9 and more";  // the character would straddle byte 120
  EXPECT_EQ(QuoteForMessage(text), "\"" + std::string(119, 'x') + "\"...");
  EXPECT_TRUE(IsUtf8(QuoteForMessage(text)));
}

}  // namespace
}  // namespace nibble
