#include "cli/generation_writer.h"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

class GenerationWriterTest : public ::testing::Test {
 protected:
  GenerationWriter Writer(OutputFormat format, ResponseParams response = {}) {
    return GenerationWriter(io_, format, response);
  }
  static Outcome Done() {
    Outcome outcome;
    outcome.finish_reason = FinishReason::kMaxTokens;
    outcome.usage = {5, 2, 3};
    outcome.timings.queue = std::chrono::microseconds(1500);
    outcome.timings.decode = std::chrono::milliseconds(40);
    outcome.timings.preemptions = 1;
    return outcome;
  }
  static Delta Text(std::string text, std::vector<int32_t> ids) {
    Delta delta;
    delta.text = std::move(text);
    delta.token_ids = std::move(ids);
    return delta;
  }

  std::istringstream in_;
  std::ostringstream out_, err_;
  Io io_{in_, out_, err_};
};

TEST_F(GenerationWriterTest, TextAppearsWithEveryDelta) {
  GenerationWriter writer = Writer(OutputFormat::kText);
  writer.OnDelta(Text("Hel", {1}));
  EXPECT_EQ(out_.str(), "Hel");
  writer.OnDelta(Text("lo", {2}));
  EXPECT_EQ(out_.str(), "Hello");
  EXPECT_EQ(writer.OnFinished(Done(), false), kExitOk);
  EXPECT_EQ(out_.str(), "Hello\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(GenerationWriterTest, JsonIsOneObjectWithTheKeysOfTheContract) {
  GenerationWriter writer = Writer(OutputFormat::kJson);
  Started started;
  started.effective.sampling.seed = 18446744073709551615u;
  writer.OnStarted(started);
  writer.OnDelta(Text("Hel", {1}));
  writer.OnDelta(Text("lo", {2, 3}));
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(writer.OnFinished(Done(), false), kExitOk);
  const Json json = Json::parse(out_.str());
  EXPECT_EQ(json["text"], "Hello");
  EXPECT_EQ(json["token_ids"], Json({1, 2, 3}));
  EXPECT_EQ(json["finish_reason"], "max_tokens");
  EXPECT_EQ(json["usage"],
            Json::parse(R"({"prompt_tokens":5,"cached_tokens":2,"completion_tokens":3})"));
  EXPECT_DOUBLE_EQ(json["timings"]["queue_ms"].get<double>(), 1.5);
  EXPECT_DOUBLE_EQ(json["timings"]["decode_ms"].get<double>(), 40);
  EXPECT_EQ(json["timings"]["preemptions"], 1);
  EXPECT_EQ(json["seed"], 18446744073709551615u);
  EXPECT_FALSE(json.contains("logprobs"));
  EXPECT_FALSE(json.contains("prompt_logprobs"));
  EXPECT_FALSE(json.contains("matched_stop"));
}

TEST_F(GenerationWriterTest, LogprobsAreOneEntryAPositionAndNullForTheFirstOfThePrompt) {
  ResponseParams response;
  response.logprobs = 1;
  response.prompt_logprobs = 0;
  GenerationWriter writer = Writer(OutputFormat::kJson, response);
  Delta delta;
  delta.token_ids = {7};
  delta.logprobs = {{7, -0.5f, {{8, -0.25f}}}};
  delta.prompt_logprobs = {std::nullopt, Logprob{4, -2.0f, {}}};
  writer.OnDelta(delta);
  writer.OnFinished(Done(), false);
  const Json json = Json::parse(out_.str());
  EXPECT_EQ(json["logprobs"].dump(),
            R"([{"token_id":7,"logprob":-0.5,"top":[{"token_id":8,"logprob":-0.25}]}])");
  EXPECT_EQ(json["prompt_logprobs"].dump(), R"([null,{"token_id":4,"logprob":-2.0,"top":[]}])");
}

TEST_F(GenerationWriterTest, AskedForLogprobsOfNothingAreAnEmptyArray) {
  ResponseParams response;
  response.logprobs = 0;
  GenerationWriter writer = Writer(OutputFormat::kJson, response);
  writer.OnFinished(Done(), false);
  EXPECT_EQ(Json::parse(out_.str())["logprobs"], Json::array());
}

TEST_F(GenerationWriterTest, AMatchedStopIsNamed) {
  GenerationWriter writer = Writer(OutputFormat::kJson);
  Outcome outcome = Done();
  outcome.finish_reason = FinishReason::kStopSequence;
  outcome.matched_stop = "\n\n";
  writer.OnFinished(outcome, false);
  const Json json = Json::parse(out_.str());
  EXPECT_EQ(json["finish_reason"], "stop_sequence");
  EXPECT_EQ(json["matched_stop"], "\n\n");
}

TEST_F(GenerationWriterTest, AnErrorGoesToStderrAndLeavesStdoutToResults) {
  GenerationWriter writer = Writer(OutputFormat::kJson);
  Outcome outcome;
  outcome.status = absl::UnavailableError("draining");
  EXPECT_EQ(writer.OnFinished(outcome, false), kExitFailure);
  EXPECT_EQ(out_.str(), "");
  EXPECT_EQ(err_.str(), "nibble: UNAVAILABLE: draining\n");
}

TEST_F(GenerationWriterTest, AWrongRequestIsWrongUsage) {
  GenerationWriter writer = Writer(OutputFormat::kText);
  Outcome outcome;
  outcome.status = absl::InvalidArgumentError("sampling.top_p: found 1.4");
  EXPECT_EQ(writer.OnFinished(outcome, false), kExitUsage);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(GenerationWriterTest, AnInterruptEndsTheLineAndIsNoError) {
  GenerationWriter writer = Writer(OutputFormat::kText);
  writer.OnDelta(Text("Once", {1}));
  Outcome outcome;
  outcome.status = absl::CancelledError("cancelled");
  EXPECT_EQ(writer.OnFinished(outcome, true), kExitInterrupted);
  EXPECT_EQ(out_.str(), "Once\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(GenerationWriterTest, ATerminalGetsOneLineOfFigures) {
  Io terminal{in_, out_, err_, true, true};
  GenerationWriter writer(terminal, OutputFormat::kText, {});
  writer.OnFinished(Done(), false);
  EXPECT_EQ(err_.str(), "[max_tokens; 5 + 3 tokens, first after 0 ms, 50.0 tokens/s]\n");
}

TEST_F(GenerationWriterTest, MinusInfinityIsNullAsJsonHasNoSuchNumber) {
  ResponseParams response;
  response.logprobs = 0;
  GenerationWriter writer = Writer(OutputFormat::kJson, response);
  Delta delta;
  delta.logprobs = {{7, -std::numeric_limits<float>::infinity(), {}}};
  writer.OnDelta(delta);
  writer.OnFinished(Done(), false);
  EXPECT_TRUE(Json::parse(out_.str())["logprobs"][0]["logprob"].is_null());
}

}  // namespace
}  // namespace nibble
