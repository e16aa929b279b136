// The whole road on the emulated device: a trained model of four layers, quantized, through the
// engine, its scheduler and the CUDA backend with every kernel it launches; what it writes must be
// what the CPU backend writes with f32 activations. And the contract that company changes no bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator/gpu.h"
#include "engine/engine.h"
#include "engine/model/device_runner.h"
#include "engine/model_file.h"
#include "tests/engine/fakes/recording_sink.h"
#include "tests/engine/quantized_file.h"
#include "tests/engine/quantized_folder.h"

namespace nibble {
namespace {

struct Device {
  std::unique_ptr<Backend> backend;
  DType kv_cache_type;
};

Device Cpu(DType kv_cache_type) {
  CpuOptions options;
  options.activations = CpuActivations::kF32;
  return {CreateCpuBackend(options).value(), kv_cache_type};
}

Device EmulatedCuda(DType activations, DType kv_cache_type, bool graphs = true,
                    bool wide_rows = false) {
  CudaOptions options;
  options.activations = activations;
  options.wide_rows = wide_rows;
  options.workspace_bytes = int64_t{16} << 20;
  options.graphs = graphs;
  return {CreateCudaBackend(options).value(), kv_cache_type};
}

// Of a device that multiplies every kind of codes.
Device QuantizingCuda() {
  emulator::TheGpu().SetCapability(9, 0);
  CudaOptions options;
  options.workspace_bytes = int64_t{16} << 20;
  options.quantize_activations = true;
  Device device = {CreateCudaBackend(options).value(), DType::kF16};
  emulator::TheGpu().SetCapability(8, 0);
  return device;
}

struct Answer {
  std::vector<int32_t> ids;
  std::vector<Logprob> logprobs;
  std::string text;
};

// A model on a device, served by an engine.
class Served {
 public:
  Served(const std::string& path, Device device, int32_t max_batch_tokens = 32)
      : file_(ModelFile::Open(path).value()), device_(std::move(device)) {
    const ModelConfig config = file_->Config().value();
    const std::unique_ptr<WeightSource> source = file_->Source(config);
    RunnerOptions options;
    options.max_context = 128;
    options.kv_cache_bytes = 2 << 20;
    options.kv_cache_type = device_.kv_cache_type;
    options.block_size = 16;
    options.max_batch_tokens = max_batch_tokens;
    options.max_sequences = std::min(8, max_batch_tokens);
    EngineParts parts;
    parts.tokenizer = file_->LoadTokenizer().value();
    parts.runner =
        DeviceRunner::Create(*device_.backend, config, *source, options, nullptr).value();
    parts.clock = &clock_;
    EngineOptions engine;
    engine.max_running = options.max_sequences;
    engine.max_batch_tokens = max_batch_tokens;
    engine.prefix_cache = false;
    engine_ = Engine::Create(std::move(parts), engine).value();
  }

  // All at once, greedily unless `sampling` says otherwise.
  std::vector<Answer> Generate(const std::vector<std::string>& prompts, int32_t max_tokens,
                               const SamplingParams& sampling = Greedy()) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const std::string& prompt : prompts) {
      GenerateRequest request;
      request.prompt = TextPrompt{prompt};
      request.sampling = sampling;
      request.stopping.max_tokens = max_tokens;
      request.stopping.ignore_eos = true;
      request.response.logprobs = 5;
      sinks.push_back(std::make_shared<RecordingSink>());
      engine_->Submit(engine_->Prepare(std::move(request)).value(), sinks.back());
    }
    std::vector<Answer> answers;
    for (const auto& sink : sinks) {
      sink->WaitFinished();
      EXPECT_TRUE(sink->outcome()->status.ok()) << sink->outcome()->status;
      answers.push_back({sink->tokens(), sink->logprobs(), sink->text()});
    }
    return answers;
  }

 private:
  static SamplingParams Greedy() {
    SamplingParams sampling;
    sampling.temperature = 0;
    return sampling;
  }

  SteadyClock clock_;
  std::unique_ptr<ModelFile> file_;
  Device device_;
  std::unique_ptr<Engine> engine_;
};

constexpr int32_t kTokens = 10;
const std::vector<std::string> kPrompts = {"In the beginning", "HACKER, n. A person who enjoys"};

// By how much the chosen tokens' log probabilities differ at most.
double WorstLogprob(const Answer& a, const Answer& b) {
  double worst = 0;
  for (size_t i = 0; i < a.logprobs.size() && i < b.logprobs.size(); ++i) {
    worst = std::max(worst, std::abs(double{a.logprobs[i].logprob} - b.logprobs[i].logprob));
  }
  return worst;
}

size_t CommonPrefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

class CudaGenerationTest : public testing::TestWithParam<std::string> {};

TEST_P(CudaGenerationTest, WritesWhatTheCpuWrites) {
  const QuantizedFile file(GetParam());
  const std::vector<Answer> expected =
      Served(file.path(), Cpu(DType::kF16)).Generate(kPrompts, kTokens);
  const std::vector<Answer> got =
      Served(file.path(), EmulatedCuda(DType::kF16, DType::kF16)).Generate(kPrompts, kTokens);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(got[i].text, expected[i].text) << kPrompts[i];
    EXPECT_EQ(got[i].ids, expected[i].ids);
    std::printf("%-8s f16  worst log probability off by %.2e: %s\n", GetParam().c_str(),
                WorstLogprob(got[i], expected[i]), got[i].text.c_str());
  }
}

INSTANTIATE_TEST_SUITE_P(EachMix, CudaGenerationTest,
                         testing::Values("q4_0", "q4_1", "q4_k_m", "q8_0", "iq4_nl", "f16"),
                         [](const auto& info) { return info.param; });

// A prompt of more rows than a pass takes, which are multiplied at once.
class CudaWideRowsTest : public testing::TestWithParam<std::string> {};

TEST_P(CudaWideRowsTest, WritesWhatTheCpuWritesAfterALongPrompt) {
  const std::string prompt =
      "In the beginning there was a person who enjoys learning the details of programming systems "
      "and how to stretch their capabilities, as opposed to most users who prefer to learn only "
      "the minimum that is necessary for what they were asked to do, and one who";
  const QuantizedFile file(GetParam());
  const auto tokenizer = ModelFile::Open(file.path()).value()->LoadTokenizer().value();
  ASSERT_GT(tokenizer->Encode(prompt, {}).value().size(), 64u);
  Served cpu(file.path(), Cpu(DType::kF16), /*max_batch_tokens=*/128);
  Served wide(file.path(), EmulatedCuda(DType::kF16, DType::kF16, /*graphs=*/true, true),
              /*max_batch_tokens=*/128);
  const Answer expected = cpu.Generate({prompt}, kTokens)[0];
  const Answer got = wide.Generate({prompt}, kTokens)[0];
  EXPECT_EQ(got.text, expected.text);
  EXPECT_EQ(got.ids, expected.ids);
  std::printf("%-8s f16, wide rows: worst log probability off by %.2e: %s\n", GetParam().c_str(),
              WorstLogprob(got, expected), got.text.c_str());
}

INSTANTIATE_TEST_SUITE_P(EachMix, CudaWideRowsTest, testing::Values("q4_k_m", "q8_0", "iq4_nl"),
                         [](const auto& info) { return info.param; });

// The same of folders with 8-bit weights: int8 by group and by row, fp8 by tensor, row and block.
struct FolderCase {
  std::string method;
  quantize::HfLayout layout = quantize::HfLayout::kCompressedTensors;
};

class CudaFolderTest : public testing::TestWithParam<FolderCase> {};

TEST_P(CudaFolderTest, WritesWhatTheCpuWrites) {
  const QuantizedFolder folder(kTinyModel, GetParam().method, GetParam().layout);
  const std::vector<Answer> expected =
      Served(folder.path(), Cpu(DType::kF16)).Generate(kPrompts, kTokens);
  const std::vector<Answer> got =
      Served(folder.path(), EmulatedCuda(DType::kF16, DType::kF16)).Generate(kPrompts, kTokens);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(got[i].text, expected[i].text) << kPrompts[i];
    EXPECT_EQ(got[i].ids, expected[i].ids);
    std::printf("%-20s f16  worst log probability off by %.2e: %s\n", GetParam().method.c_str(),
                WorstLogprob(got[i], expected[i]), got[i].text.c_str());
  }
}

INSTANTIATE_TEST_SUITE_P(EachScheme, CudaFolderTest,
                         testing::Values(FolderCase{"rtn-int8-sym-g128"},
                                         FolderCase{"rtn-int8-sym-channel"},
                                         FolderCase{"rtn-e4m3-tensor"},
                                         FolderCase{"rtn-e4m3-channel"},
                                         FolderCase{"rtn-e4m3-block", quantize::HfLayout::kFp8},
                                         FolderCase{"rtn-e5m2-tensor", quantize::HfLayout::kFp8}),
                         [](const auto& info) {
                           std::string name = info.param.method;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Activations of 8 bits change what is nearly as likely, as they do on a GPU: log probabilities
// must agree up to where another token is chosen, and company must change no bit.
class CudaW8A8Test : public testing::TestWithParam<FolderCase> {};

TEST_P(CudaW8A8Test, StaysNearTheCpuAndIsTheSameInAnyCompany) {
  const QuantizedFolder folder(kTinyModel, GetParam().method, GetParam().layout);
  const std::vector<Answer> expected =
      Served(folder.path(), Cpu(DType::kF16)).Generate(kPrompts, kTokens);
  const std::vector<Answer> got =
      Served(folder.path(), QuantizingCuda()).Generate(kPrompts, kTokens);
  Served alone(folder.path(), QuantizingCuda(), /*max_batch_tokens=*/3);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    const size_t same = CommonPrefix(got[i].ids, expected[i].ids);
    Answer cut = got[i];
    cut.logprobs.resize(same);
    EXPECT_GE(same, 3u) << kPrompts[i];
    EXPECT_LT(WorstLogprob(cut, expected[i]), 0.3);
    EXPECT_GT(WorstLogprob(cut, expected[i]), 1e-3) << "activations were not quantized";
    const Answer answer = alone.Generate({kPrompts[i]}, kTokens)[0];
    EXPECT_EQ(answer.ids, got[i].ids);
    EXPECT_EQ(WorstLogprob(answer, got[i]), 0);
    std::printf("%-20s W8A8 %zu of %d tokens the same, worst log probability off by %.2e: %s\n",
                GetParam().method.c_str(), same, kTokens, WorstLogprob(cut, expected[i]),
                got[i].text.c_str());
  }
}

INSTANTIATE_TEST_SUITE_P(EachScheme, CudaW8A8Test,
                         testing::Values(FolderCase{"rtn-int8-sym-channel"},
                                         FolderCase{"rtn-e4m3-channel"},
                                         FolderCase{"rtn-e4m3-block", quantize::HfLayout::kFp8}),
                         [](const auto& info) {
                           std::string name = info.param.method;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// bf16 has 8 bits where f16 has 11, so where two tokens are nearly as likely the other one may be
// chosen; up to there the log probabilities must agree to 0.05 (0.02 was seen).
TEST(CudaGenerationOfBf16Test, StaysNearTheCpuForAsLongAsTheyAgree) {
  const QuantizedFile file("q4_1");
  const std::vector<Answer> expected =
      Served(file.path(), Cpu(DType::kBf16)).Generate(kPrompts, kTokens);
  const std::vector<Answer> got =
      Served(file.path(), EmulatedCuda(DType::kBf16, DType::kBf16)).Generate(kPrompts, kTokens);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    const size_t same = CommonPrefix(got[i].ids, expected[i].ids);
    EXPECT_GE(same, 3u) << kPrompts[i];
    Answer cut = got[i];
    cut.logprobs.resize(same);
    EXPECT_LT(WorstLogprob(cut, expected[i]), 0.05);
    std::printf("q4_1     bf16 %zu of %d tokens the same, worst log probability off by %.2e: %s\n",
                same, kTokens, WorstLogprob(cut, expected[i]), got[i].text.c_str());
  }
}

struct DrawCase {
  std::string name;
  SamplingParams sampling;
};

class CudaSamplingTest : public testing::TestWithParam<DrawCase> {};

// The logits of the two differ in their last bits, so a draw at the boundary of two tokens may
// differ too, and all that follows it: of eight seeds two had none in 90 draws, the others one or
// two.
TEST_P(CudaSamplingTest, DrawsWhatTheCpuDraws) {
  const QuantizedFile file("q4_1");
  const std::vector<Answer> expected =
      Served(file.path(), Cpu(DType::kF16)).Generate(kPrompts, kTokens, GetParam().sampling);
  const std::vector<Answer> got = Served(file.path(), EmulatedCuda(DType::kF16, DType::kF16))
                                      .Generate(kPrompts, kTokens, GetParam().sampling);
  const std::vector<Answer> greedy =
      Served(file.path(), Cpu(DType::kF16)).Generate(kPrompts, kTokens);
  size_t alike = 0;  // answers
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    alike += got[i].ids == expected[i].ids ? 1 : 0;
    EXPECT_NE(got[i].ids, greedy[i].ids) << "a case that shows nothing";
    Answer cut = got[i];
    cut.logprobs.resize(CommonPrefix(got[i].ids, expected[i].ids));
    EXPECT_GE(cut.logprobs.size(), 3u) << got[i].text << " for " << expected[i].text;
    EXPECT_LT(WorstLogprob(cut, expected[i]), 0.02);
  }
  EXPECT_GE(alike, kPrompts.size() - 1);
}

std::vector<DrawCase> DrawCases() {
  SamplingParams plain;
  plain.seed = 11;
  SamplingParams cut = plain;
  cut.temperature = 1.3f;
  cut.top_k = 40;
  cut.top_p = 0.9f;
  cut.min_p = 0.01f;
  SamplingParams lists = plain;
  lists.temperature = 0.8f;
  lists.repetition_penalty = 1.2f;
  lists.presence_penalty = 0.5f;
  lists.frequency_penalty = 0.5f;
  lists.logit_bias = {{40, 2.0f}, {300, -4.0f}};
  return {{"Plain", plain}, {"Cut", cut}, {"Lists", lists}};
}

INSTANTIATE_TEST_SUITE_P(Each, CudaSamplingTest, testing::ValuesIn(DrawCases()),
                         [](const auto& info) { return info.param.name; });

// The two backends make the same codes of the same k and v, but f16 activations move some values to
// the next code, a step of 1 / 127 of the row's largest value or of 1 / 8 of the value itself. The
// text must be the same, and log probabilities agree to 0.03 (0.012 and 0.014 were seen).
class CudaCacheTypeTest : public testing::TestWithParam<DType> {};

TEST_P(CudaCacheTypeTest, StaysNearTheCpuWithTheSameCache) {
  const bool is_fp8 = GetParam() == DType::kF8E4M3;
  const QuantizedFile file("q4_1");
  const std::vector<Answer> expected =
      Served(file.path(), Cpu(GetParam())).Generate(kPrompts, kTokens);
  const std::vector<Answer> got =
      Served(file.path(), EmulatedCuda(DType::kF16, GetParam())).Generate(kPrompts, kTokens);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_EQ(got[i].text, expected[i].text) << kPrompts[i];
    EXPECT_LT(WorstLogprob(got[i], expected[i]), 0.03);
    std::printf("q4_1     f16, %s cache: worst log probability off by %.2e: %s\n",
                is_fp8 ? "fp8" : "int8", WorstLogprob(got[i], expected[i]), got[i].text.c_str());
  }
}

INSTANTIATE_TEST_SUITE_P(Each, CudaCacheTypeTest, testing::Values(DType::kI8, DType::kF8E4M3));

// The contract of kernels/ops.h on the whole road: alone or in company, in chunks of any size, with
// graphs or without, in any order of the emulator's threads.
class CudaBatchInvarianceTest : public testing::TestWithParam<DType> {};

TEST_P(CudaBatchInvarianceTest, CompanyChunksAndGraphsChangeNoBit) {
  const QuantizedFile file("q4_1");
  const std::vector<Answer> together =
      Served(file.path(), EmulatedCuda(DType::kF16, GetParam())).Generate(kPrompts, kTokens);
  Served alone(file.path(), EmulatedCuda(DType::kF16, GetParam(), /*graphs=*/false),
               /*max_batch_tokens=*/3);
  emulator::TheGpu().SetSeed(5);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    const Answer answer = alone.Generate({kPrompts[i]}, kTokens)[0];
    EXPECT_EQ(answer.ids, together[i].ids);
    ASSERT_EQ(answer.logprobs.size(), together[i].logprobs.size());
    for (size_t t = 0; t < answer.logprobs.size(); ++t) {
      EXPECT_EQ(answer.logprobs[t].logprob, together[i].logprobs[t].logprob) << "token " << t;
      EXPECT_EQ(answer.logprobs[t].top, together[i].logprobs[t].top) << "token " << t;
    }
  }
  emulator::TheGpu().SetSeed(0);
}

INSTANTIATE_TEST_SUITE_P(Each, CudaBatchInvarianceTest, testing::Values(DType::kF16, DType::kI8));

TEST(CudaLoadTest, RefusesWhatItHasNoKernelFor) {
  const std::unique_ptr<ModelFile> file = ModelFile::Open(kTinyModel).value();
  const ModelConfig config = file->Config().value();
  const std::unique_ptr<WeightSource> source = file->Source(config);
  const Device device = EmulatedCuda(DType::kF16, DType::kF16);
  RunnerOptions options;
  options.kv_cache_type = DType::kBf16;
  EXPECT_TRUE(absl::IsUnimplemented(
      DeviceRunner::Create(*device.backend, config, *source, options, nullptr).status()));
  options.kv_cache_type = DType::kF16;
  options.kv_cache_bytes = int64_t{64} << 30;
  const absl::Status too_large =
      DeviceRunner::Create(*device.backend, config, *source, options, nullptr).status();
  EXPECT_TRUE(absl::IsResourceExhausted(too_large));
  EXPECT_THAT(std::string(too_large.message()), testing::HasSubstr("KV cache 68719476736"));
}

}  // namespace
}  // namespace nibble
