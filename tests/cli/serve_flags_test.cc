#include "cli/serve_flags.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

ServeFlags Parsed(std::vector<std::string> args) {
  CLI::App app;
  Flags flags(app);
  ServeFlags serve;
  AddServeFlags(flags, serve);
  std::reverse(args.begin(), args.end());
  app.parse(args);
  return serve;
}

TEST(ServeFlagsTest, DefaultsAreTheHeadersDefaults) {
  const ServeFlags serve = Parsed({"--model", "m.gguf"});
  EXPECT_TRUE(Validate(serve).ok());
  const ServerOptions server = ServerOptionsOf(serve);
  EXPECT_EQ(server.listen, "127.0.0.1:50051");
  EXPECT_TRUE(server.reflection);
  EXPECT_EQ(server.limits.max_open_requests, ServerLimits{}.max_open_requests);
  EXPECT_TRUE(EngineOptionsOf(serve).prefix_cache);
  EXPECT_EQ(RunnerOptionsOf(serve).kv_cache_bytes, RunnerOptions{}.kv_cache_bytes);
}

TEST(ServeFlagsTest, RunningAndWaitingTogetherBoundTheOpenRequests) {
  const ServeFlags serve = Parsed({"--max-running", "8", "--max-waiting", "3"});
  EXPECT_EQ(ServerOptionsOf(serve).limits.max_open_requests, 11);
  EXPECT_EQ(EngineOptionsOf(serve).max_running, 8);
  EXPECT_EQ(RunnerOptionsOf(serve).max_sequences, 8);
}

TEST(ServeFlagsTest, AStepMayHoldJustTheRunningSequences) {
  EXPECT_TRUE(Validate(Parsed({"--model", "m", "--max-batch-tokens", "64"})).ok());
}

TEST(ServeFlagsTest, TheStepBudgetReachesEngineAndRunner) {
  const ServeFlags serve = Parsed({"--max-batch-tokens", "128", "--kv-cache-mib", "64"});
  EXPECT_EQ(EngineOptionsOf(serve).max_batch_tokens, 128);
  EXPECT_EQ(RunnerOptionsOf(serve).max_batch_tokens, 128);
  EXPECT_EQ(RunnerOptionsOf(serve).kv_cache_bytes, 64 << 20);
}

TEST(ServeFlagsTest, SwitchesTurnThingsOff) {
  const ServeFlags serve =
      Parsed({"--no-reflection", "--no-prefix-cache", "--metrics-listen", "off"});
  EXPECT_FALSE(ServerOptionsOf(serve).reflection);
  EXPECT_FALSE(EngineOptionsOf(serve).prefix_cache);
  EXPECT_EQ(ServerOptionsOf(serve).metrics_listen, "");
}

TEST(ServeFlagsTest, DurationsAndChoicesAreRead) {
  const ServeFlags serve =
      Parsed({"--drain-timeout", "500ms", "--cpu-isa", "avx2", "--cpu-activations", "f32",
              "--log-level", "error", "--kv-cache-type", "fp8", "--cuda-w8a8", "--cuda-wide-rows"});
  EXPECT_EQ(RunnerOptionsOf(serve).kv_cache_type, DType::kF8E4M3);
  EXPECT_EQ(serve.server.drain_timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(serve.model.cpu.isa, CpuIsa::kAvx2);
  EXPECT_EQ(serve.model.cpu.activations, CpuActivations::kF32);
  EXPECT_EQ(serve.log_level, LogLevel::kError);
  EXPECT_TRUE(serve.model.cuda_w8a8);
  EXPECT_TRUE(serve.model.cuda_wide_rows);
  EXPECT_FALSE(Parsed({}).model.cuda_w8a8);
  EXPECT_FALSE(Parsed({}).model.cuda_wide_rows);
}

// The engine ends the sequence, the server the call.
TEST(ServeFlagsTest, ThePauseTimeoutReachesEngineAndServer) {
  const ServeFlags serve = Parsed({"--pause-timeout", "5m"});
  EXPECT_EQ(EngineOptionsOf(serve).pause_timeout, std::chrono::minutes(5));
  EXPECT_EQ(ServerOptionsOf(serve).pause_timeout, std::chrono::minutes(5));
}

TEST(ServeFlagsTest, RangesAreChecked) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--threads", "-1"},        {"--threads", "257"},      {"--max-running", "0"},
      {"--kv-cache-mib", "0"},    {"--block-size", "4"},     {"--max-waiting", "-1"},
      {"--block-size", "24"},     {"--device", "gpu"},       {"--cpu-isa", "sse"},
      {"--metrics-alias", "tgi"}, {"--log-level", "loud"},   {"--max-request-bytes", "1"},
      {"--drain-timeout", "-1s"}, {"--kv-cache-type", "f32"}};
  for (const auto& args : wrong) {
    EXPECT_THROW(Parsed(args), CLI::ParseError) << args[0] << " " << args[1];
  }
}

TEST(ServeFlagsTest, WhatDoesNotFitTogetherIsNamed) {
  struct Case {
    std::vector<std::string> args;
    std::string named;
  };
  const Case cases[] = {{{}, "--model"},
                        {{"--model", "m", "--tls-cert", "c"}, "--tls-key"},
                        {{"--model", "m", "--tls-key", "k"}, "--tls-cert"},
                        {{"--model", "m", "--tls-client-ca", "a"}, "--tls-client-ca"},
                        {{"--model", "m", "--max-batch-tokens", "63"}, "--max-running: found 64"},
                        {{"--model", "m", "--max-running", "513"}, "--max-batch-tokens 512"},
                        {{"--model", "m", "--pause-timeout", "0s"}, "--pause-timeout: found 0s"}};
  for (const Case& c : cases) {
    const absl::Status status = Validate(Parsed(c.args));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.named;
    EXPECT_NE(status.message().find(c.named), absl::string_view::npos) << status.message();
  }
}

TEST(ValidateModelFlagsTest, WhatWouldDoNothingIsRefused) {
  ModelFlags model;
  EXPECT_TRUE(Validate(model).ok());
  model.cuda_w8a8 = model.cuda_dependent_launches = true;
  EXPECT_TRUE(absl::IsInvalidArgument(Validate(model)));
  for (const char* device : {"auto", "cuda", "cuda:1"}) {
    model.device = device;
    EXPECT_TRUE(Validate(model).ok()) << device;
  }
  model = ModelFlags();
  model.share_weights = true;
  EXPECT_TRUE(absl::IsInvalidArgument(Validate(model)));
  model.packed_cache = "auto";
  EXPECT_TRUE(Validate(model).ok());
  model.device = "cuda";
  EXPECT_TRUE(absl::IsInvalidArgument(Validate(model))) << "a GPU's memory is nobody else's";
}

TEST(ModelNameTest, IsTheFilesNameWithoutItsEnding) {
  EXPECT_EQ(ModelNameOf("models/Small-135M.Q4_1.gguf"), "Small-135M.Q4_1");
  EXPECT_EQ(ModelNameOf("plain"), "plain");
  EXPECT_EQ(ModelNameOf("models/tiny/"), "tiny") << "a folder";
  EXPECT_EQ(ServerOptionsOf(Parsed({"--model", "a/b.gguf"})).model_name, "b");
  EXPECT_EQ(ServerOptionsOf(Parsed({"--model", "a/b.gguf", "--model-name", "chat"})).model_name,
            "chat");
}

}  // namespace
}  // namespace nibble
