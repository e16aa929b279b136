#include "cli/eval_choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/engine/fakes/fake_tokenizer.h"

namespace nibble {
namespace {

using testing::HasSubstr;

TEST(TokenizeChoiceTest, AnEndingIsWhatTheContextIsFollowedBy) {
  const FakeTokenizer tokenizer;
  const ChoiceText text{"ab", {"c", "d\xC3\xA9"}, 1};
  const auto question = TokenizeChoice(text, tokenizer, -1).value();
  ASSERT_EQ(question.choices.size(), 2u);
  EXPECT_EQ(question.answer, 1);
  const std::vector<int32_t> context = tokenizer.Encode("ab", {}).value();
  EXPECT_EQ(question.choices[0].ids, tokenizer.Encode("ab c", {}).value());
  EXPECT_EQ(question.choices[0].first_scored, static_cast<int32_t>(context.size()));
  EXPECT_EQ(question.choices[0].num_characters, 1);
  EXPECT_EQ(question.choices[1].num_characters, 2);  // not bytes
}

TEST(TokenizeChoiceTest, ABosMovesEverythingByOne) {
  const FakeTokenizer tokenizer;
  const ChoiceText text{"ab", {"c", "d"}, 0};
  const Choice plain = TokenizeChoice(text, tokenizer, -1)->choices[0];
  const Choice with_bos = TokenizeChoice(text, tokenizer, 7)->choices[0];
  EXPECT_EQ(with_bos.ids.front(), 7);
  EXPECT_EQ(with_bos.ids.size(), plain.ids.size() + 1);
  EXPECT_EQ(with_bos.first_scored, plain.first_scored + 1);
}

TEST(ChoicesJsonTest, HasTheKeysOfTheContractInOrder) {
  ChoicesResult result;
  result.accuracy = {0.25, 0.125};
  result.accuracy_by_length = {0.5, 0.0625};
  result.questions = 12;
  result.tokens = 345;
  EXPECT_EQ(ChoicesJson(result).dump(),
            R"({"accuracy":{"percent":25.0,"standard_error":12.5},)"
            R"("accuracy_by_length":{"percent":50.0,"standard_error":6.25},)"
            R"("questions":12,"tokens":345})");
}

TEST(RunChoicesTest, WrongUsageNamesTheFlag) {
  std::istringstream in;
  std::ostringstream out, err;
  ChoicesFlags flags;
  EXPECT_EQ(RunChoices(flags, Io{in, out, err}), kExitUsage);
  flags.model.model = "m.gguf";
  EXPECT_EQ(RunChoices(flags, Io{in, out, err}), kExitUsage);
  EXPECT_THAT(err.str(), HasSubstr("--data"));
  flags.data = "/nowhere/x.jsonl";
  EXPECT_EQ(RunChoices(flags, Io{in, out, err}), kExitFailure);
  EXPECT_THAT(err.str(), HasSubstr("/nowhere/x.jsonl"));
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace nibble
