#include "cli/eval_divergence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace nibble {
namespace {

using testing::HasSubstr;

DivergenceResult Result() {
  DivergenceResult result;
  result.kl = {0.25, 0.0625};
  result.kl_median = {0.125, 0.5};
  result.kl_p90 = {0.5, 0.25};
  result.kl_p99 = {1, 0.125};
  result.kl_max = 2;
  result.agreement = {0.75, 0.03125};
  result.delta = {-0.5, 0.25};
  result.probability_rms = {0.0625, 0.015625};
  result.base_nll = {2, 0.5};
  result.candidate_nll = {2.5, 0.25};
  result.tokens = 510;
  result.windows = 2;
  return result;
}

WindowOptions Windows() {
  WindowOptions windows;
  windows.skip = 257;
  return windows;
}

const DivergenceSide kBase = {"", "a.gguf", "avx2", "f32", DType::kF16};
const DivergenceSide kCandidate = {"", "b.gguf", "scalar", "int8", DType::kF8E4M3};

TEST(DivergenceJsonTest, HasTheKeysOfTheContractInOrder) {
  DivergenceResult result = Result();
  result.delta = {0, 0.25};
  result.base_nll.mean = result.candidate_nll.mean = 0;
  EXPECT_EQ(
      DivergenceJson(result, Windows(), kBase, kCandidate).dump(),
      R"({"windows":2,"window":512,"first_scored":257,"stride":512,"tokens":510,)"
      R"("kl":{"mean":0.25,"standard_error":0.0625,"median":0.125,"median_standard_error":0.5,)"
      R"("p90":0.5,"p90_standard_error":0.25,"p99":1.0,"p99_standard_error":0.125,)"
      R"("max":2.0},"top1_agreement":{"percent":75.0,"standard_error":3.125},)"
      R"("probability_change":{"rms_percent":6.25,"standard_error":1.5625},)"
      R"("logprob_delta":{"mean":0.0,"standard_error":0.25},)"
      R"("perplexity":{"base":1.0,"base_standard_error":0.5,"candidate":1.0,)"
      R"("candidate_standard_error":0.25,"ratio":1.0,)"
      R"("ratio_standard_error":0.25},)"
      R"("base":{"model":"a.gguf","cpu_isa":"avx2","cpu_activations":"f32","kv_cache_type":"f16"},)"
      R"("candidate":{"model":"b.gguf","cpu_isa":"scalar","cpu_activations":"int8","kv_cache_type":"fp8"}})");
}

TEST(DivergenceJsonTest, TheRatioIsThatOfThePerplexities) {
  const auto perplexity = DivergenceJson(Result(), Windows(), kBase, kCandidate)["perplexity"];
  EXPECT_NEAR(perplexity["ratio"].get<double>(),
              perplexity["candidate"].get<double>() / perplexity["base"].get<double>(), 1e-12);
  EXPECT_NEAR(perplexity["ratio_standard_error"].get<double>(), 0.25 * std::exp(0.5), 1e-12);
}

TEST(DivergenceTextTest, SaysWhatRanAndWhatWasScored) {
  const std::string text = DivergenceText(Result(), Windows(), kBase, kCandidate);
  for (const char* part :
       {"base       a.gguf  avx2  f32 activations  f16 cache\n",
        "candidate  b.gguf  scalar  int8 activations  fp8 cache\n",
        "510 tokens: positions 257..511 of 2 windows", "mean 0.250000 +- 0.062500",
        "99 % 1.000000 +- 0.125000", "rms 6.250 % +- 1.562", "75.00 % +- 3.12 the same",
        "mean -0.500000", "ratio 1.648721"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(DivergenceTextTest, ABaseFileIsNamedWithWhatItSaysOfItself) {
  const DivergenceSide file = {"f16.base", "f16.gguf, avx2", {}, {}};
  EXPECT_THAT(DivergenceText(Result(), Windows(), file, kCandidate),
              HasSubstr("base       f16.base (f16.gguf, avx2)\n"));
  EXPECT_EQ(DivergenceJson(Result(), Windows(), file, kCandidate)["base"].dump(),
            R"({"file":"f16.base","description":"f16.gguf, avx2"})");
}

TEST(DivergenceFooterTest, TeachesTheFiguresAndTheKeys) {
  for (const char* word : {"--skip half", "KL(base || candidate)", "nats", "paired", "JSON",
                           "\"first_scored\"", "--base-model", "--save-base", "--stride"}) {
    EXPECT_THAT(DivergenceFooter(), HasSubstr(word));
  }
}

TEST(DivergenceFlagsTest, TheBaseIsTheExactPathUnlessToldOtherwise) {
  CLI::App app;
  Flags flags(app);
  DivergenceFlags divergence;
  AddDivergenceFlags(flags, divergence);
  EXPECT_EQ(divergence.base.cpu.activations, CpuActivations::kF32);
  EXPECT_EQ(divergence.candidate.cpu.activations, CpuActivations::kInt8);
  EXPECT_EQ(divergence.text.skip, "half");
  app.parse(
      "--model m --text t --base-cpu-activations int8 --base-cpu-isa scalar "
      "--cpu-activations f32 --base-model b --kv-cache-type int8");
  EXPECT_EQ(divergence.base.cpu.activations, CpuActivations::kInt8);
  EXPECT_EQ(divergence.base.cpu.isa, CpuIsa::kScalar);
  EXPECT_EQ(divergence.base.model, "b");
  EXPECT_EQ(divergence.candidate.cpu.activations, CpuActivations::kF32);
  EXPECT_EQ(divergence.candidate.cpu.isa, CpuIsa::kAuto);
  EXPECT_EQ(divergence.candidate.model, "m");
  EXPECT_EQ(divergence.candidate.runner.kv_cache_type, DType::kI8);
  EXPECT_EQ(divergence.base.runner.kv_cache_type, DType::kF16);
}

TEST(RunDivergenceTest, WrongUsageAndMissingFilesAreNamed) {
  const auto run = [](const std::string& model, const std::string& text, int* code) {
    std::istringstream in;
    std::ostringstream out, err;
    DivergenceFlags flags;
    flags.candidate.model = model;
    flags.text.path = text;
    *code = RunDivergence(flags, Io{in, out, err});
    EXPECT_EQ(out.str(), "");
    return err.str();
  };
  int code = 0;
  EXPECT_THAT(run("", "t.txt", &code), HasSubstr("--model"));
  EXPECT_EQ(code, kExitUsage);
  EXPECT_THAT(run("m.gguf", "", &code), HasSubstr("--text"));
  EXPECT_EQ(code, kExitUsage);
  EXPECT_THAT(run("m.gguf", "no/such/text.txt", &code), HasSubstr("no/such/text.txt"));
  EXPECT_EQ(code, kExitFailure);
}

TEST(RunDivergenceTest, ThereIsOneBase) {
  const auto run = [](const DivergenceFlags& flags) {
    std::istringstream in;
    std::ostringstream out, err;
    EXPECT_EQ(RunDivergence(flags, Io{in, out, err}), kExitUsage);
    return err.str();
  };
  DivergenceFlags flags;
  flags.candidate.model = "m.gguf";
  flags.text.path = "t.txt";
  flags.base_file = "b.base";
  flags.save_base = "c.base";
  EXPECT_THAT(run(flags), HasSubstr("--save-base and --base: found both"));
  flags.save_base.clear();
  flags.base.model = "f16.gguf";
  EXPECT_THAT(run(flags), HasSubstr("--base-model and --base: found both"));
  flags.base.model.clear();
  flags.text.stride = 400;
  EXPECT_THAT(run(flags), HasSubstr("--stride: found 400"));
}

}  // namespace
}  // namespace nibble
