#include "engine/preparer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "engine/engine.h"
#include "engine/scheduling/sequence.h"
#include "tests/engine/fakes/fake_tokenizer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr RunnerLimits kLimits{
    /*vocab_size=*/260, /*max_context=*/32,      /*block_size=*/4,
    /*num_blocks=*/6,   /*max_batch_tokens=*/16, /*max_sequences=*/4};

TEST(SpecialTokenTextsTest, AreThoseOfControlTokensById) {
  EXPECT_THAT(SpecialTokenTexts(FakeTokenizer()),
              ElementsAre("<s>", "</s>", "<|end|>", "<|user|>"));
}

class PreparerTest : public ::testing::Test {
 protected:
  absl::StatusOr<PreparedRequest> Prepare(Prompt prompt, StoppingParams stopping = {}) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.stopping = std::move(stopping);
    return preparer_.Prepare(std::move(request));
  }
  // The field an error is about, "" when there was none.
  std::string FieldOf(const absl::Status& status) {
    const auto payload = status.GetPayload(kFieldPayload);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
    return payload ? std::string(*payload) : "";
  }

  FakeTokenizer tokenizer_;
  FakeChatTemplate template_;
  Preparer preparer_{tokenizer_, &template_, kLimits, 1};
};

TEST_F(PreparerTest, TextGetsTheBeginningTokenAndNoOtherControlToken) {
  const auto prepared = Prepare(TextPrompt{"</s>"});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_THAT(prepared->prompt_ids, ElementsAre(FakeTokenizer::kBos, '<', '/', 's', '>'));
}

TEST_F(PreparerTest, OfThePromptOnlyItsKindIsKept) {
  const auto text = Prepare(TextPrompt{"a"});
  EXPECT_EQ(std::get<TextPrompt>(text->params.prompt).text, "");
  const auto ids = Prepare(TokenPrompt{{'a'}});
  EXPECT_THAT(std::get<TokenPrompt>(ids->params.prompt).ids, IsEmpty());
  const auto chat = Prepare(ChatPrompt{{{"user", "a"}}});
  EXPECT_THAT(std::get<ChatPrompt>(chat->params.prompt).messages, IsEmpty());
}

TEST_F(PreparerTest, TokenIdsAreUsedAsTheyAre) {
  const auto prepared = Prepare(TokenPrompt{{'a', FakeTokenizer::kEnd, 'b'}});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_THAT(prepared->prompt_ids, ElementsAre('a', FakeTokenizer::kEnd, 'b'));
}

TEST_F(PreparerTest, ChatIsRenderedAndMessagesCannotSmuggleControlTokens) {
  const auto prepared = Prepare(ChatPrompt{{{"user", "x</s>"}}});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_THAT(prepared->prompt_ids, ElementsAre(FakeTokenizer::kUser, 'x', '<', '/', 's', '>',
                                                FakeTokenizer::kEnd, FakeTokenizer::kUser));
}

TEST_F(PreparerTest, ErrorsOfTokenizerAndTemplateNameTheirField) {
  EXPECT_EQ(FieldOf(Prepare(TextPrompt{"a\xff"}).status()), "text");
  EXPECT_EQ(FieldOf(Prepare(ChatPrompt{{{"refused", "x"}}}).status()), "chat");
  const Preparer bare(tokenizer_, nullptr, kLimits, 1);
  GenerateRequest request;
  request.prompt = ChatPrompt{{{"user", "x"}}};
  const absl::Status status = bare.Prepare(request).status();
  EXPECT_EQ(FieldOf(status), "chat");
  EXPECT_THAT(std::string(status.message()), HasSubstr("no chat template"));
}

TEST_F(PreparerTest, APromptThatCanNeverFitIsRefusedWithNumbers) {
  const absl::Status status = Prepare(TokenPrompt{std::vector<int32_t>(25, 'a')}).status();
  EXPECT_EQ(FieldOf(status), "token_ids");
  for (const char* number : {"25", "24", "32"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(number));
  }
  EXPECT_TRUE(Prepare(TokenPrompt{std::vector<int32_t>(24, 'a')}).ok());
}

TEST_F(PreparerTest, AContextWithoutRoomForOneTokenServesOnlyScoring) {
  RunnerLimits limits = kLimits;
  limits.num_blocks = 100;
  const Preparer preparer(tokenizer_, nullptr, limits, 1);
  GenerateRequest request;
  request.prompt = TokenPrompt{std::vector<int32_t>(32, 'a')};
  EXPECT_EQ(FieldOf(preparer.Prepare(request).status()), "token_ids");
  request.stopping.max_tokens = 0;
  EXPECT_TRUE(preparer.Prepare(request).ok());
}

TEST_F(PreparerTest, AHugeTextIsRefusedBeforeItIsTokenized) {
  const absl::Status status = Prepare(TextPrompt{std::string(10 << 20, 'a')}).status();
  EXPECT_EQ(FieldOf(status), "text");
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes"));
}

// A template writes out the role as well.
TEST_F(PreparerTest, AHugeRoleIsRefusedAsAHugeContentIs) {
  const std::string huge(10 << 20, 'a');
  for (const ChatMessage& message : {ChatMessage{huge, "x"}, ChatMessage{"user", huge}}) {
    const absl::Status status = Prepare(ChatPrompt{{message}}).status();
    EXPECT_EQ(FieldOf(status), "chat");
    EXPECT_THAT(std::string(status.message()), HasSubstr("bytes"));
  }
}

TEST_F(PreparerTest, MissingMaxTokensMeansTheRestOfTheContext) {
  const auto prepared = Prepare(TokenPrompt{{'a', 'b'}});
  EXPECT_EQ(prepared->params.stopping.max_tokens, 30);
  StoppingParams stopping;
  stopping.max_tokens = 7;
  EXPECT_EQ(Prepare(TokenPrompt{{'a'}}, stopping)->params.stopping.max_tokens, 7);
}

// The proto says that effective params are bounded by the context; 1000000 came back as it was.
TEST_F(PreparerTest, MaxTokensIsBoundedByTheRestOfTheContext) {
  StoppingParams stopping;
  stopping.max_tokens = 1'000'000;
  stopping.min_tokens = 100;  // is checked against what was asked
  const auto prepared = Prepare(TokenPrompt{{'a', 'b'}}, stopping);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->params.stopping.max_tokens, 30);
  EXPECT_EQ(prepared->params.stopping.min_tokens, 100);
}

// A bounded max_tokens is reached with the token that fills the context; the reason stays.
TEST_F(PreparerTest, WhatFillsTheContextStillEndsAsContextLength) {
  StoppingParams stopping;
  stopping.max_tokens = 1'000'000;
  auto prepared = Prepare(TokenPrompt{{'a', 'b'}}, stopping);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  Sequence sequence(1, *std::move(prepared), {}, Instant{});
  for (int i = 0; i < 29; ++i) sequence.tokens.push_back('x');
  EXPECT_FALSE(sequence.FindEnding(kLimits.max_context).has_value());
  sequence.tokens.push_back('x');
  EXPECT_EQ(sequence.FindEnding(kLimits.max_context)->reason, FinishReason::kContextLength);
}

TEST_F(PreparerTest, DrawsASeedForWhoeverHasNoneAndTheSameOnesForTheSameEngineSeed) {
  const Preparer twin(tokenizer_, &template_, kLimits, 1);
  std::set<uint64_t> seeds;
  for (int i = 0; i < 20; ++i) {
    GenerateRequest request;
    request.prompt = TextPrompt{"a"};
    const auto a = preparer_.Prepare(request);
    const auto b = twin.Prepare(request);
    EXPECT_EQ(a->params.sampling.seed, b->params.sampling.seed);
    seeds.insert(*a->params.sampling.seed);
  }
  EXPECT_EQ(seeds.size(), 20u);
  GenerateRequest request;
  request.prompt = TextPrompt{"a"};
  request.sampling.seed = 42;
  EXPECT_EQ(preparer_.Prepare(request)->params.sampling.seed, 42u);
}

TEST_F(PreparerTest, RefusesARequestThatMayNeitherEndNorGoOn) {
  GenerateRequest request;
  request.prompt = TextPrompt{"a"};
  request.sampling.allowed_token_ids = {FakeTokenizer::kEos, 'x'};
  request.stopping.stop_token_ids = {'x'};
  EXPECT_TRUE(preparer_.Prepare(request).ok());
  request.stopping.min_tokens = 1;
  EXPECT_EQ(FieldOf(preparer_.Prepare(request).status()), "stopping.min_tokens");
  request.stopping.ignore_eos = true;  // then the end token is an ordinary one
  EXPECT_TRUE(preparer_.Prepare(request).ok());
}

TEST_F(PreparerTest, RangesAreCheckedAgainstTheModelsVocabulary) {
  EXPECT_EQ(FieldOf(Prepare(TokenPrompt{{260}}).status()), "token_ids.ids[0]");
  RunnerLimits limits = kLimits;
  limits.vocab_size = 200;  // a model with fewer rows than the tokenizer has tokens
  const Preparer preparer(tokenizer_, nullptr, limits, 1);
  GenerateRequest request;
  request.prompt = TextPrompt{"a"};  // the BOS id is 256
  EXPECT_EQ(FieldOf(preparer.Prepare(request).status()), "text");
}

}  // namespace
}  // namespace nibble
