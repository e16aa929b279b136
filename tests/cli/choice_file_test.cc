#include "cli/choice_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ParseChoiceLineTest, ReadsContextEndingsAndLabel) {
  const auto choice =
      ParseChoiceLine(R"({"ctx": "A man. He", "endings": [" runs ", "[x] flies"], "label": 1})");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->context, "A man. He");
  EXPECT_THAT(choice->endings, ElementsAre(" runs ", "[x] flies"));  // as they are
  EXPECT_EQ(choice->answer, 1);
}

// The harness's rules, on an object with the keys that HellaSwag's files have.
TEST(ParseChoiceLineTest, PutsThePublishedFormTogether) {
  const auto choice = ParseChoiceLine(
      R"({"ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is  sitting on a roof.",)"
      R"( "ctx_b": "he STARTS", "ctx": "unused", "endings": ["is [step] ripping  level tiles off.",)"
      R"( " pulls [title] up.", "b [open", "c"], "label": "3"})");
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->context, "Roof shingle removal: A man is sitting on a roof. He starts");
  EXPECT_THAT(choice->endings,
              ElementsAre("is ripping level tiles off.", "pulls. up.", "b [open", "c"));
  EXPECT_EQ(choice->answer, 3);
}

// Brackets that never close are looked through once, not once each.
TEST(ParseChoiceLineTest, AMillionOpenBracketsAreText) {
  const std::string brackets(kMaxChoiceLineBytes - 200, '[');
  const auto choice =
      ParseChoiceLine(absl::StrCat(R"({"activity_label": "x", "ctx_a": ")", brackets,
                                   R"(", "ctx_b": "y", "endings": ["a", "b"], "label": 0})"));
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->context.size(), brackets.size() + 5);
}

TEST(ParseChoiceLineTest, WhatIsWrongIsNamed) {
  const auto message = [](const std::string& line) {
    const auto choice = ParseChoiceLine(line);
    EXPECT_EQ(choice.status().code(), absl::StatusCode::kInvalidArgument) << line;
    return std::string(choice.status().message());
  };
  EXPECT_THAT(message("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(message("{"), HasSubstr("no JSON object"));
  EXPECT_THAT(message(R"({"endings": ["a", "b"], "label": 0})"), HasSubstr("\"ctx\""));
  EXPECT_THAT(message(R"({"ctx": 1, "endings": ["a", "b"], "label": 0})"), HasSubstr("\"ctx\""));
  EXPECT_THAT(message(R"({"ctx": "", "endings": ["a", "b"], "label": 0})"), HasSubstr("\"ctx\""));
  for (const char* endings : {"\"a\"", "[]", "[\"a\"]", "[\"a\", 1]", "[\"a\", \"\"]"}) {
    EXPECT_THAT(message(absl::StrCat(R"({"ctx": "x", "label": 0, "endings": )", endings, "}")),
                HasSubstr("\"endings\""));
  }
  for (const char* label : {"2", "-1", "\"x\"", "1.5", "null", "99999999999999999999"}) {
    EXPECT_THAT(
        message(absl::StrCat(R"({"ctx": "x", "endings": ["a", "b"], "label": )", label, "}")),
        HasSubstr("\"label\": needed the number of an ending, 0 to 1"));
  }
  EXPECT_THAT(message(R"({"activity_label": "x", "ctx": "y", "endings": ["a", "b"], "label": 0})"),
              HasSubstr("\"ctx_a\""));
  EXPECT_THAT(message(std::string(kMaxChoiceLineBytes + 1, ' ')), HasSubstr("the limit is"));
}

class ReadChoiceFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& text) {
    const std::string path = absl::StrCat(testing::TempDir(), getpid(), "_choices.jsonl");
    std::ofstream(path) << text;
    return path;
  }
  const std::string line_ = R"({"ctx": "x", "endings": ["a", "b"], "label": 0})";
};

TEST_F(ReadChoiceFileTest, ReadsUpToTheLimitAndSkipsEmptyLines) {
  const std::string path = Write(absl::StrCat(line_, "\n\n", line_, "\r\n", line_));
  EXPECT_EQ(ReadChoiceFile(path, 0)->size(), 3u);
  EXPECT_EQ(ReadChoiceFile(path, 2)->size(), 2u);
}

TEST_F(ReadChoiceFileTest, NamesTheLineAndTheFile) {
  const auto wrong = ReadChoiceFile(Write(absl::StrCat(line_, "\n\nnonsense\n")), 0).status();
  EXPECT_THAT(std::string(wrong.message()), HasSubstr("choices.jsonl\", line 3: it is no JSON"));
  EXPECT_EQ(ReadChoiceFile(Write("\n"), 0).status().code(), absl::StatusCode::kNotFound);
  const auto absent = ReadChoiceFile("/nowhere/x.jsonl", 0).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(absent.message()), HasSubstr("/nowhere/x.jsonl"));
}

}  // namespace
}  // namespace nibble
