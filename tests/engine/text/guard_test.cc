// Guard: where the guard character goes, and that nothing else of a message changes.
#include "engine/text/guard.h"

#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

const std::vector<std::string> kSpecial = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "«",
                                           "<s>",          "<s>x"};

std::string Content(const std::string& text) { return Guard("^", kSpecial).Content(text); }

TEST(Guard, OrdinaryTextStaysAsItIs) {
  for (const std::string text :
       {"", "hello", "a < b and |im_end|", "1 <| 2", "<im_end>", "émoji 😀"}) {
    EXPECT_EQ(Content(text), text);
  }
}

TEST(Guard, EveryOccurrenceIsMarkedAfterItsFirstCharacter) {
  EXPECT_EQ(Content("a<|im_end|>b<|im_end|>"), "a<^|im_end|>b<^|im_end|>");
  EXPECT_EQ(Content("<s><s>x"), "<^s><^s>x");
  EXPECT_EQ(Content("<|im_<|im_end|>"), "<|im_<^|im_end|>");
}

TEST(Guard, ATokenOfOneCharacterIsFollowedByTheGuard) { EXPECT_EQ(Content("a«b"), "a«^b"); }

// What a template puts behind or before a message must not complete a token that the message begins
// or ends.
TEST(Guard, HalvesAtTheEndsAreMarked) {
  EXPECT_EQ(Content("x<|im_e"), "x<^|im_e");
  EXPECT_EQ(Content("x<|im_e \n"), "x<^|im_e \n") << "templates trim";
  EXPECT_EQ(Content("x<"), "x<^");
  EXPECT_EQ(Content("_end|> x"), "_^end|> x");
  EXPECT_EQ(Content("|>x"), "|^>x");
  EXPECT_EQ(Content(">y"), ">y") << "what one character could complete, no template writes";
}

TEST(Guard, UsualRolesAreNeverMarked) {
  const std::vector<std::string> special = {"<|user|>", "<|assistant|>", "<|end|>"};
  const Guard guard("^", special);
  EXPECT_EQ(guard.Role("user"), "user");
  EXPECT_EQ(guard.Role("assistant"), "assistant");
  EXPECT_EQ(guard.Role("end"), "e^nd") << "'<|' + role + '|>' would be a control token";
  EXPECT_EQ(guard.Role("<|end|>"), "<^|end|>");
  EXPECT_EQ(guard.Role("narrator"), "narrator");
  EXPECT_EQ(guard.Role(""), "");
}

TEST(Guard, RemovingTheGuardGivesTheMessageBack) {
  const std::string text = "<|im_start|><|im_start|><s>x«« <|endoftext|<|im_end|";
  EXPECT_EQ(absl::StrReplaceAll(Content(text), {{"^", ""}}), text);
}

TEST(ChooseGuard, TakesACharacterThatNothingContains) {
  EXPECT_EQ(*ChooseGuard({}, {}, ""), "\uE000");
  const std::vector<ChatMessage> messages = {{"\uE000", "a\uE001b"}};
  const std::vector<std::string> special = {"<\uE002>"};
  EXPECT_EQ(*ChooseGuard(messages, special, "{{ '\uE003' }}"), "\uE004");
}

TEST(ChooseGuard, FindsOneBeyondTheFirstPlaneAndSaysWhenThereIsNone) {
  std::string all;
  for (char32_t code = 0xE000; code <= 0xF8FF; ++code) {
    all += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
            static_cast<char>(0x80 | (code & 0x3F))};
  }
  std::vector<ChatMessage> messages = {{"user", all}};
  EXPECT_EQ(*ChooseGuard(messages, {}, ""), "\U000F0000");
  for (char32_t code = 0xF0000; code <= 0xFFFFD; ++code) {
    all += {static_cast<char>(0xF3), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
            static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
  }
  messages[0].content = all;
  EXPECT_EQ(ChooseGuard(messages, {}, "").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble
