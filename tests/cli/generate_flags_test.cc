#include "cli/generate_flags.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

GenerateFlags Parsed(std::vector<std::string> args) {
  CLI::App app;
  Flags flags(app);
  GenerateFlags generate;
  AddGenerateFlags(flags, generate);
  std::reverse(args.begin(), args.end());
  app.parse(args);
  return generate;
}

TEST(GenerateFlagsTest, EverySamplingAndStoppingFlagReachesTheRequest) {
  const absl::StatusOr<GenerateRequest> request = RequestOf(Parsed({"--server",
                                                                    "h:1",
                                                                    "--prompt",
                                                                    "hello",
                                                                    "--max-tokens",
                                                                    "7",
                                                                    "--min-tokens",
                                                                    "2",
                                                                    "--temperature",
                                                                    "0.7",
                                                                    "--top-k",
                                                                    "40",
                                                                    "--top-p",
                                                                    "0.9",
                                                                    "--min-p",
                                                                    "0.05",
                                                                    "--repetition-penalty",
                                                                    "1.1",
                                                                    "--presence-penalty",
                                                                    "0.2",
                                                                    "--frequency-penalty",
                                                                    "-0.3",
                                                                    "--seed",
                                                                    "42",
                                                                    "--logit-bias",
                                                                    "5=-100",
                                                                    "--allowed-ids",
                                                                    "1,2,5",
                                                                    "--stop",
                                                                    "\n",
                                                                    "--stop",
                                                                    "END",
                                                                    "--stop-token-ids",
                                                                    "9",
                                                                    "--ignore-eos",
                                                                    "--include-stop",
                                                                    "--logprobs",
                                                                    "3",
                                                                    "--prompt-logprobs",
                                                                    "0",
                                                                    "--echo",
                                                                    "--priority",
                                                                    "-5",
                                                                    "--cache-salt",
                                                                    "tenant",
                                                                    "--time-limit",
                                                                    "2s"}));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<TextPrompt>(request->prompt).text, "hello");
  EXPECT_EQ(request->stopping.max_tokens, 7);
  EXPECT_EQ(request->stopping.min_tokens, 2);
  EXPECT_EQ(request->stopping.stop, (std::vector<std::string>{"\n", "END"}));
  EXPECT_EQ(request->stopping.stop_token_ids, std::vector<int32_t>{9});
  EXPECT_TRUE(request->stopping.ignore_eos);
  EXPECT_TRUE(request->stopping.include_stop);
  const SamplingParams& sampling = request->sampling;
  EXPECT_EQ(sampling.temperature, 0.7f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.min_p, 0.05f);
  EXPECT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(sampling.presence_penalty, 0.2f);
  EXPECT_EQ(sampling.frequency_penalty, -0.3f);
  EXPECT_EQ(sampling.seed, 42u);
  EXPECT_EQ(sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{5, -100.0f}}));
  EXPECT_EQ(sampling.allowed_token_ids, (std::vector<int32_t>{1, 2, 5}));
  EXPECT_EQ(request->response.logprobs, 3);
  EXPECT_EQ(request->response.prompt_logprobs, 0);
  EXPECT_TRUE(request->response.echo);
  EXPECT_EQ(request->priority, -5);
  EXPECT_EQ(request->cache_salt, "tenant");
  EXPECT_EQ(request->time_limit, std::chrono::seconds(2));
}

TEST(GenerateFlagsTest, WithoutFlagsTheRequestHasTheDefaultsOfRequestH) {
  const absl::StatusOr<GenerateRequest> request =
      RequestOf(Parsed({"--model", "m", "--prompt", ""}));
  ASSERT_TRUE(request.ok()) << "an empty prompt is one: " << request.status();
  EXPECT_EQ(request->sampling.temperature, 1.0f);
  EXPECT_FALSE(request->stopping.max_tokens.has_value());
  EXPECT_FALSE(request->sampling.seed.has_value());
  EXPECT_EQ(request->response.logprobs, -1);
}

TEST(GenerateFlagsTest, MaxTokensZeroIsAValueOfItsOwn) {
  EXPECT_EQ(RequestOf(Parsed({"--model", "m", "--prompt", "a", "--max-tokens", "0"}))
                ->stopping.max_tokens,
            0);
}

TEST(GenerateFlagsTest, ChatHasTheSystemMessageFirst) {
  const absl::StatusOr<GenerateRequest> request =
      RequestOf(Parsed({"--model", "m", "--chat", "hi", "--system", "be brief"}));
  ASSERT_TRUE(request.ok());
  const std::vector<ChatMessage>& messages = std::get<ChatPrompt>(request->prompt).messages;
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[0].role, "system");
  EXPECT_EQ(messages[0].content, "be brief");
  EXPECT_EQ(messages[1].role, "user");
}

TEST(GenerateFlagsTest, TokenIdsAreTakenAsTheyAre) {
  const absl::StatusOr<GenerateRequest> request =
      RequestOf(Parsed({"--model", "m", "--token-ids", "1,2,3"}));
  EXPECT_EQ(std::get<TokenPrompt>(request->prompt).ids, (std::vector<int32_t>{1, 2, 3}));
}

TEST(GenerateFlagsTest, ExactlyOneModelAndOnePromptAreNeeded) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--prompt", "a"},
      {"--prompt", "a", "--model", "m", "--server", "s:1"},
      {"--model", "m"},
      {"--model", "m", "--prompt", "a", "--chat", "b"},
      {"--model", "m", "--prompt", "a", "--token-ids", "1"},
      {"--model", "m", "--prompt", "a", "--system", "b"}};
  for (const auto& args : wrong) {
    const absl::StatusOr<GenerateRequest> request = RequestOf(Parsed(args));
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << args.size();
  }
}

}  // namespace
}  // namespace nibble
