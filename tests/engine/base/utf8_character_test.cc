#include "engine/base/utf8_character.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

// The table in full: what each code point's own encoding is, and nothing else.
TEST(Utf8CharacterTest, EveryCodePointIsItsOwnLength) {
  for (uint32_t point = 0; point <= 0x10FFFF; ++point) {
    std::string text;
    const auto tail = [&](int shift) {
      text.push_back(static_cast<char>(0x80 | (point >> shift & 0x3F)));
    };
    if (point < 0x80) {
      text.push_back(static_cast<char>(point));
    } else if (point < 0x800) {
      text.push_back(static_cast<char>(0xC0 | point >> 6));
      tail(0);
    } else if (point < 0x10000) {
      text.push_back(static_cast<char>(0xE0 | point >> 12));
      tail(6), tail(0);
    } else {
      text.push_back(static_cast<char>(0xF0 | point >> 18));
      tail(12), tail(6), tail(0);
    }
    const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
    ASSERT_EQ(Utf8CharacterBytes(text + "x"), surrogate ? 0 : text.size()) << point;
    ASSERT_EQ(Utf8CharacterBytes(text.substr(0, text.size() - 1) + "x"), text.size() == 1 ? 1 : 0)
        << "cut: " << point;
  }
}

TEST(Utf8CharacterTest, WhatIsLongerThanNeededOrBeyondTheLastIsNone) {
  for (const char* broken :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_EQ(Utf8CharacterBytes(broken), 0u);
  }
}

}  // namespace
}  // namespace nibble
