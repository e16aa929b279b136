#include "cli/bench.h"

#include <gtest/gtest.h>

#include <sstream>

#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

// A runner whose steps take 10 ms of a clock that nothing else moves. ScriptedRunner itself checks
// every batch: block tables, positions, limits.
class BenchTest : public ::testing::Test {
 protected:
  BenchTest() : runner_(Options()) {
    runner_.set_before_step([this](const Batch& batch) {
      batches_.push_back(batch.num_tokens);
      clock_.Advance(std::chrono::milliseconds(10));
    });
  }
  static ScriptedOptions Options() {
    ScriptedOptions options;
    options.limits.max_batch_tokens = 8;
    options.limits.num_blocks = 32;
    options.limits.max_sequences = 4;
    return options;
  }
  BenchFlags Flags(std::vector<int32_t> batch) {
    BenchFlags flags;
    flags.prompt_tokens = {10};
    flags.generate_tokens = 5;
    flags.batch = std::move(batch);
    flags.repeat = 3;
    return flags;
  }

  ScriptedRunner runner_;
  FakeClock clock_;
  std::vector<int32_t> batches_;
};

TEST_F(BenchTest, RatesAreSumsOverTheSequencesOfABatch) {
  const auto results = Bench(runner_, Flags({1, 4}), clock_, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 4u);
  // 10 tokens in two steps of at most 8; 40 tokens in five.
  EXPECT_EQ((*results)[0].test, "prefill");
  EXPECT_EQ((*results)[0].batch, 1);
  EXPECT_NEAR((*results)[0].tokens_per_second[0], 10 / 0.02, 1e-6);
  EXPECT_NEAR((*results)[1].tokens_per_second[0], 40 / 0.05, 1e-6);
  EXPECT_EQ((*results)[2].test, "decode");
  EXPECT_NEAR((*results)[2].tokens_per_second[0], 5 / 0.05, 1e-6);
  EXPECT_EQ((*results)[3].batch, 4);
  EXPECT_NEAR((*results)[3].tokens_per_second[0], 20 / 0.05, 1e-6);
  for (const BenchResult& result : *results) EXPECT_EQ(result.tokens_per_second.size(), 3u);
}

TEST_F(BenchTest, DecodeStartsAtTheContextOfThePrompt) {
  const auto results = Bench(runner_, Flags({2}), clock_, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ((*results)[0].context, 0);
  EXPECT_EQ((*results)[1].context, 10);
  EXPECT_EQ((*results)[1].generate_tokens, 5);
}

TEST_F(BenchTest, StepsNeverPassTheTokenBudget) {
  ASSERT_TRUE(Bench(runner_, Flags({3}), clock_, nullptr).ok());
  for (const int32_t tokens : batches_) EXPECT_LE(tokens, 8);
}

TEST_F(BenchTest, NothingToGenerateIsPrefillOnly) {
  BenchFlags flags = Flags({1});
  flags.generate_tokens = 0;
  const auto results = Bench(runner_, flags, clock_, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 1u);
  EXPECT_EQ(results->front().test, "prefill");
}

TEST_F(BenchTest, ProgressEndsAtAllPasses) {
  int64_t last_done = 0, last_total = 0;
  ASSERT_TRUE(Bench(runner_, Flags({1, 2}), clock_, [&](int64_t done, int64_t total) {
                last_done = done;
                last_total = total;
              }).ok());
  EXPECT_GT(last_total, 0);
  EXPECT_EQ(last_done, last_total);
}

TEST_F(BenchTest, WhatDoesNotFitIsNamed) {
  BenchFlags flags = Flags({5});
  EXPECT_NE(Bench(runner_, flags, clock_, nullptr).status().message().find("--batch"),
            absl::string_view::npos);
  flags = Flags({1});
  flags.prompt_tokens = {1000};
  EXPECT_NE(Bench(runner_, flags, clock_, nullptr).status().message().find("--prompt-tokens"),
            absl::string_view::npos);
}

TEST_F(BenchTest, ADeviceErrorEndsTheBenchmark) {
  runner_.FailAtStep(4);
  EXPECT_EQ(Bench(runner_, Flags({1}), clock_, nullptr).status().code(),
            absl::StatusCode::kInternal);
}

TEST_F(BenchTest, ListsMultiplyAndDepthsAreDecodedAtWithoutAPrefillTest) {
  BenchFlags flags = Flags({1, 2});
  flags.prompt_tokens = {0};
  flags.context = {7, 20};
  const auto results = Bench(runner_, flags, clock_, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 4u);
  for (const BenchResult& result : *results) EXPECT_EQ(result.test, "decode");
  EXPECT_EQ((*results)[0].context, 7);
  EXPECT_EQ((*results)[3].context, 20);
  EXPECT_EQ((*results)[3].batch, 2);
  for (const double rate : (*results)[3].tokens_per_second) EXPECT_NEAR(rate, 10 / 0.05, 1e-6);
}

TEST_F(BenchTest, PromptLengthsAreContextsWhereNoneAreGiven) {
  BenchFlags flags = Flags({1});
  flags.prompt_tokens = {0, 5, 9};
  const auto results = Bench(runner_, flags, clock_, nullptr);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 4u);
  EXPECT_EQ((*results)[1].prompt_tokens, 9);
  EXPECT_EQ((*results)[2].context, 5);
  EXPECT_EQ((*results)[3].context, 9);
}

TEST(BenchResultTest, TheMedianOfAnEvenNumberIsBetweenTheMiddleTwo) {
  BenchResult result;
  result.tokens_per_second = {30, 10, 20, 40};
  EXPECT_EQ(result.MedianRate(), 25);
  result.tokens_per_second = {30, 10, 20};
  EXPECT_EQ(result.MedianRate(), 20);
}

// What is wrong with the command line is found before a file is opened.
struct WrongFlags {
  void (*set)(BenchFlags&);
  const char* names;
};
TEST(RunBenchTest, WrongUsageNamesTheFlag) {
  const WrongFlags wrong[] = {
      {[](BenchFlags& flags) { flags.model.model = ""; }, "--model"},
      {[](BenchFlags& flags) { flags.batch = {}; }, "--batch"},
      {[](BenchFlags& flags) { flags.batch = {1, 0}; }, "--batch: found 0"},
      {[](BenchFlags& flags) { flags.prompt_tokens = {-1}; }, "--prompt-tokens: found -1"},
      {[](BenchFlags& flags) { flags.prompt_tokens = {0}; }, "--prompt-tokens 0"},
      {[](BenchFlags& flags) { flags.context = {0}; }, "--context: found 0"},
      {[](BenchFlags& flags) { flags.threads = {257}; }, "--threads: found 257"},
      {[](BenchFlags& flags) { flags.threads.assign(65, 1); }, "--threads: found 65 numbers"},
      {[](BenchFlags& flags) { flags.kv_cache_type = "f16,f12"; }, "--kv-cache-type: found 'f12'"},
      {[](BenchFlags& flags) { flags.compare = "no/such.json"; }, "no/such.json"}};
  for (const WrongFlags& one : wrong) {
    BenchFlags flags;
    flags.model.model = "no/such/model.gguf";
    one.set(flags);
    std::istringstream in;
    std::ostringstream out, err;
    EXPECT_EQ(RunBench(flags, Io{in, out, err}), kExitUsage) << one.names;
    EXPECT_NE(err.str().find(one.names), std::string::npos) << err.str();
  }
}

}  // namespace
}  // namespace nibble
