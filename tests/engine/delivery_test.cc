#include "engine/delivery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/recording_sink.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kContext = 64;

// One request fed token by token, the way the loop does it.
class DeliveryTest : public ::testing::Test {
 protected:
  void Begin(const GenerateRequest& params, absl::string_view prompt = "in") {
    PreparedRequest request{params, *tokenizer().Encode(prompt, {.add_special = add_special_})};
    if (!request.params.stopping.max_tokens) request.params.stopping.max_tokens = 32;
    sequence_ =
        std::make_unique<Sequence>(1, request, tokenizer().end_of_generation_ids(), Instant{});
    delivery_ = std::make_unique<Delivery>(sink_, tokenizer(), *sequence_);
    delivery_->Start(*sequence_);
  }
  std::optional<Ending> Add(int32_t id) {
    sequence_->tokens.push_back(id);
    std::optional<Ending> ending = sequence_->FindEnding(kContext);
    delivery_->AddToken(*sequence_, {id, -1.5f, {}}, ending);
    return ending;
  }
  std::optional<Ending> Say(absl::string_view text) {
    std::optional<Ending> ending;
    for (char c : text) {
      if (!ending) ending = Add(static_cast<uint8_t>(c));
    }
    return ending;
  }

  virtual const Tokenizer& tokenizer() const { return tokenizer_; }

  FakeTokenizer tokenizer_;
  bool add_special_ = false;
  std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  std::unique_ptr<Sequence> sequence_;
  std::unique_ptr<Delivery> delivery_;
};

TEST_F(DeliveryTest, EveryTokenIsADeltaWithItsIdAndText) {
  Begin({});
  Say("ab");
  EXPECT_EQ(sink_->text(), "ab");
  EXPECT_THAT(sink_->tokens(), ElementsAre('a', 'b'));
  EXPECT_TRUE(sink_->logprobs().empty());  // not asked for
}

TEST_F(DeliveryTest, AStopStringEndsItAndIsNotSeen) {
  GenerateRequest params;
  params.stopping.stop = {"END"};
  Begin(params);
  const auto ending = Say("abEND");
  ASSERT_TRUE(ending);
  EXPECT_EQ(ending->reason, FinishReason::kStopSequence);
  EXPECT_EQ(ending->matched_stop, "END");
  EXPECT_EQ(sink_->text(), "ab");
  EXPECT_EQ(sink_->tokens().size(), 5u);
}

TEST_F(DeliveryTest, IncludeStopKeepsTheStopString) {
  GenerateRequest params;
  params.stopping.stop = {"END"};
  params.stopping.include_stop = true;
  Begin(params);
  Say("abEND");
  EXPECT_EQ(sink_->text(), "abEND");
}

TEST_F(DeliveryTest, AStopStringInTheLastTokenWinsOverMaxTokens) {
  GenerateRequest params;
  params.stopping.stop = {"b"};
  params.stopping.max_tokens = 2;
  Begin(params);
  EXPECT_EQ(Say("ab")->reason, FinishReason::kStopSequence);
}

TEST_F(DeliveryTest, WhatWasHeldForAStopStringComesOutAtTheEnd) {
  GenerateRequest params;
  params.stopping.stop = {"END"};
  params.stopping.max_tokens = 3;
  Begin(params);
  EXPECT_EQ(Say("aEN")->reason, FinishReason::kMaxTokens);
  EXPECT_EQ(sink_->text(), "aEN");
}

TEST_F(DeliveryTest, AnEndTokenHasNoTextEvenWithIncludeStop) {
  GenerateRequest params;
  params.stopping.include_stop = true;
  Begin(params);
  Say("a");
  const auto ending = Add(FakeTokenizer::kEos);
  EXPECT_EQ(ending->reason, FinishReason::kEos);
  EXPECT_EQ(ending->matched_token, FakeTokenizer::kEos);
  EXPECT_EQ(sink_->text(), "a");
  EXPECT_THAT(sink_->tokens(), ElementsAre('a', FakeTokenizer::kEos));
}

TEST_F(DeliveryTest, AStopTokensTextIsKeptOnlyWithIncludeStop) {
  for (bool include : {false, true}) {
    for (int32_t stop : {int32_t{'z'}, FakeTokenizer::kUser}) {
      sink_ = std::make_shared<RecordingSink>();
      GenerateRequest params;
      params.stopping.stop_token_ids = {stop};
      params.stopping.include_stop = include;
      Begin(params);
      Say("a");
      EXPECT_EQ(Add(stop)->reason, FinishReason::kStopToken);
      const std::string kept = stop == 'z' ? "az" : "a<|user|>";
      EXPECT_EQ(sink_->text(), include ? kept : "a");
    }
  }
}

TEST_F(DeliveryTest, EchoComesOnceAndFirst) {
  GenerateRequest params;
  params.response.echo = true;
  Begin(params, "prompt ");
  Say("ab");
  EXPECT_EQ(sink_->deltas()[0].text, "prompt a");
  EXPECT_EQ(sink_->text(), "prompt ab");
}

// Of a model whose texts lose their first space, as SentencePiece's do. The answer to "The capital
// of France is" began with "Paris", so that the two together read "isParis".
class FirstSpaceTest : public DeliveryTest {
 protected:
  const Tokenizer& tokenizer() const override { return strips_; }
  std::string TextOfAll() const { return *strips_.Decode(sequence_->tokens, false); }

  FakeTokenizer strips_{/*strips_first_space=*/true};
};

TEST_F(FirstSpaceTest, EchoAndCompletionAreTheTextOfAllTokens) {
  GenerateRequest params;
  params.response.echo = true;
  for (const Prompt& kind : {Prompt(TextPrompt{}), Prompt(TokenPrompt{}), Prompt(ChatPrompt{})}) {
    sink_ = std::make_shared<RecordingSink>();
    params.prompt = kind;
    Begin(params, " is");
    Say(" Paris");
    EXPECT_EQ(sink_->text(), "is Paris") << "kind " << kind.index();
    EXPECT_EQ(sink_->text(), TextOfAll());
  }
}

TEST_F(FirstSpaceTest, ACompletionKeepsItsSpaceAndAnAnswerToAChatDoesNot) {
  GenerateRequest params;
  Begin(params, "is");
  Say(" Paris");
  EXPECT_EQ(sink_->text(), " Paris");
  sink_ = std::make_shared<RecordingSink>();
  params.prompt = ChatPrompt{};
  Begin(params, "is");
  Say(" Paris");
  EXPECT_EQ(sink_->text(), "Paris");
}

TEST_F(FirstSpaceTest, AfterAPromptWithoutTextTheCompletionIsTheBeginning) {
  add_special_ = true;
  Begin({}, "");
  Say(" Paris");
  EXPECT_EQ(sink_->text(), "Paris");
  EXPECT_EQ(sink_->text(), TextOfAll());
}

TEST_F(DeliveryTest, PromptLogprobsComeTogetherInTheFirstDeltaAfterAnAbsentOne) {
  GenerateRequest params;
  params.response.prompt_logprobs = 0;
  Begin(params, "abc");
  delivery_->AddPromptLogprobs({{'b', -1, {}}});  // two chunks of a prefill
  delivery_->AddPromptLogprobs({{'c', -2, {}}});
  Say("xy");
  const auto scored = sink_->prompt_logprobs();
  ASSERT_EQ(scored.size(), 3u);
  EXPECT_FALSE(scored[0].has_value());
  EXPECT_EQ(scored[2]->id, 'c');
  EXPECT_EQ(sink_->violation(), "");
}

TEST_F(DeliveryTest, ScoringAloneIsOneDeltaWithoutTokens) {
  GenerateRequest params;
  params.response.prompt_logprobs = 0;
  params.response.echo = true;
  Begin(params, "ab");
  delivery_->AddPromptLogprobs({{'b', -1, {}}});
  delivery_->EndPrompt(*sequence_);
  ASSERT_EQ(sink_->deltas().size(), 1u);
  EXPECT_EQ(sink_->text(), "ab");
  EXPECT_TRUE(sink_->tokens().empty());
  EXPECT_EQ(sink_->prompt_logprobs().size(), 2u);
}

TEST_F(DeliveryTest, LogprobsComeOneAToken) {
  GenerateRequest params;
  params.response.logprobs = 0;
  Begin(params);
  Say("ab");
  ASSERT_EQ(sink_->logprobs().size(), 2u);
  EXPECT_EQ(sink_->logprobs()[1].id, 'b');
  EXPECT_EQ(sink_->logprobs()[1].logprob, -1.5f);
}

TEST_F(DeliveryTest, FlushDeliversTheRestAndABrokenCharacterAsReplacement) {
  GenerateRequest params;
  Begin(params);
  Say("a");
  Add(0xc3);  // the first half of a letter
  EXPECT_EQ(sink_->text(), "a");
  delivery_->Flush();
  EXPECT_EQ(sink_->text(), "a\xef\xbf\xbd");
}

}  // namespace
}  // namespace nibble
