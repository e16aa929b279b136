// The whole model on the CPU backend against a dense float64 decoder, and the contract that chunks,
// company, blocks and threads change no bit.
#include "engine/model/device_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "engine/model/kv_cache.h"
#include "engine/model/workspace.h"
#include "tests/engine/model/tiny_decoder.h"

namespace nibble {
namespace {

using testing::HasSubstr;

std::vector<int32_t> RandomIds(uint32_t seed, int32_t n, int32_t vocab_size) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = random() % vocab_size;
  return ids;
}

struct Options {
  int32_t num_threads = 2;
  CpuIsa isa = CpuIsa::kAuto;
  CpuActivations activations = CpuActivations::kF32;
  DType kv_cache_type = DType::kF16;
  int32_t block_size = 16;
  int32_t max_batch_tokens = 700;
};

// A runner over random weights, and sequences that are fed to it in any parts.
class Model {
 public:
  explicit Model(const ModelConfig& config, Options options = {}, int32_t int8_group = 0)
      : weights(config, 99, int8_group) {
    CpuOptions cpu;
    cpu.num_threads = options.num_threads;
    cpu.isa = options.isa;
    cpu.activations = options.activations;
    backend = CreateCpuBackend(cpu).value();
    RunnerOptions runner_options;
    runner_options.kv_cache_bytes = 4 << 20;
    runner_options.kv_cache_type = options.kv_cache_type;
    runner_options.block_size = options.block_size;
    runner_options.max_batch_tokens = options.max_batch_tokens;
    runner_options.max_sequences = 8;
    runner = DeviceRunner::Create(*backend, config, weights, runner_options, nullptr).value();
    free_blocks.resize(runner->limits().num_blocks);
    std::iota(free_blocks.begin(), free_blocks.end(), 0);
  }

  std::vector<int32_t> TakeBlocks(int32_t num_tokens) {
    const int32_t size = runner->limits().block_size;
    std::vector<int32_t> blocks(free_blocks.end() - (num_tokens + size - 1) / size,
                                free_blocks.end());
    free_blocks.resize(free_blocks.size() - blocks.size());
    return blocks;
  }

  TinyWeights weights;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceRunner> runner;
  std::vector<int32_t> free_blocks;
  SamplingParams sampling;
};

BatchRow ScoreRow(Model& model, const std::vector<int32_t>& ids, int32_t first, int32_t count,
                  const std::vector<int32_t>& blocks) {
  BatchRow row;
  row.tokens = ids;
  row.prompt_length = static_cast<int32_t>(ids.size());
  row.num_computed = first;
  row.num_scheduled = count;
  row.block_table = blocks;
  row.sampling = &model.sampling;
  row.prompt_logprobs = model.runner->limits().vocab_size;
  row.prompt_scored = first;
  return row;
}

StepResult RunRows(Model& model, std::vector<BatchRow> rows) {
  Batch batch;
  batch.rows = std::move(rows);
  for (const BatchRow& row : batch.rows) batch.num_tokens += row.num_scheduled;
  return model.runner->Run(batch).value();
}

std::vector<Logprob> ScoreWhole(Model& model, const std::vector<int32_t>& ids) {
  const auto blocks = model.TakeBlocks(static_cast<int32_t>(ids.size()));
  const int32_t n = static_cast<int32_t>(ids.size());
  return RunRows(model, {ScoreRow(model, ids, 0, n, blocks)}).rows[0].prompt_logprobs;
}

void ExpectSameBits(const Logprob& a, const Logprob& b, const std::string& where) {
  ASSERT_EQ(a.id, b.id) << where;
  ASSERT_EQ(a.logprob, b.logprob) << where;
  ASSERT_EQ(a.top, b.top) << where;
}

void ExpectMatchesDense(const ModelConfig& config, Options options, int32_t int8_group = 0) {
  Model model(config, options, int8_group);
  const std::vector<int32_t> ids = RandomIds(3, 75, config.vocab_size);
  const auto expected = DenseDecoder(config, model.weights).Logprobs(ids);
  const std::vector<Logprob> scored = ScoreWhole(model, ids);
  ASSERT_EQ(scored.size(), ids.size() - 1);
  std::vector<double> errors;  // the worst of each position
  for (size_t p = 0; p + 1 < ids.size(); ++p) {
    ASSERT_EQ(scored[p].id, ids[p + 1]);
    ASSERT_EQ(scored[p].top.size(), size_t(config.vocab_size));
    double worst = 0;
    for (const auto& [id, logprob] : scored[p].top) {
      worst = std::max(worst, std::abs(logprob - expected[p][id]));
    }
    EXPECT_LT(worst, 2e-2) << "position " << p;
    errors.push_back(worst);
  }
  // f32 against f64 differs by about 3e-6, until a k or v falls on the other side of an f16
  // rounding boundary: from there on every position that sees it differs by up to a few 1e-3.
  std::sort(errors.begin(), errors.end());
  EXPECT_LT(errors[3], 2e-5);
  EXPECT_LT(errors[errors.size() / 2], 3e-3);
}

TEST(WorkspaceTest, PlansWhatItAllocates) {
  const auto backend = CreateCpuBackend(CpuOptions{}).value();
  const ModelConfig config = TinyConfig();
  EXPECT_EQ(Workspace::PlannedBytes(config, backend->activation_dtype(), 96, 7),
            Workspace::Create(*backend, config, 96, 7).value().size_bytes());
}

TEST(DeviceRunnerTest, LlamaMatchesTheDenseDecoder) {
  for (bool tied : {false, true}) {
    ModelConfig config = TinyConfig();
    config.tied_head = tied;
    for (CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAuto}) {
      SCOPED_TRACE(testing::Message() << "tied " << tied << " isa " << static_cast<int>(isa));
      Options options;
      options.isa = isa;
      ExpectMatchesDense(config, options);
    }
  }
}

TEST(DeviceRunnerTest, Qwen2MatchesTheDenseDecoder) {
  ModelConfig config = TinyConfig();
  config.architecture = "qwen2";
  config.qkv_bias = true;
  config.rope_layout = RopeLayout::kHalf;
  config.tied_head = true;
  ExpectMatchesDense(config, Options{});
}

TEST(DeviceRunnerTest, EveryRopeScalingMatchesTheDenseDecoder) {
  ModelConfig config = TinyConfig();
  config.rope_factor = 4.0f;
  config.rope_original_context = 64;
  for (RopeScaling scaling : {RopeScaling::kLinear, RopeScaling::kLlama3}) {
    config.rope_scaling = scaling;
    config.rope_freq_factors.clear();
    ExpectMatchesDense(config, Options{});
    config.rope_freq_factors = {1, 1, 1, 1.5f, 2, 3, 4, 4};
    ExpectMatchesDense(config, Options{});
  }
}

TEST(DeviceRunnerTest, PartialRotationAndWideHeadsMatchTheDenseDecoder) {
  ModelConfig config = TinyConfig();
  config.head_dim = 24;
  config.rotary_dim = 12;
  config.num_kv_heads = 1;
  ExpectMatchesDense(config, Options{});
}

// With f32 activations an int8 model is its dequantized self.
TEST(DeviceRunnerTest, QuantizedWeightsMatchTheDenseDecoder) {
  ModelConfig config = TinyConfig();
  ExpectMatchesDense(config, Options{}, /*int8_group=*/32);
}

TEST(DeviceRunnerTest, ChunksBatchesBlocksAndThreadsChangeNoBit) {
  const ModelConfig config = TinyConfig();
  const std::vector<int32_t> ids = RandomIds(1, 300, config.vocab_size);
  const std::vector<int32_t> other = RandomIds(2, 90, config.vocab_size);
  using Kind = std::pair<CpuActivations, DType>;
  for (const auto& [activations, type] : {Kind{CpuActivations::kF32, DType::kF16},
                                          {CpuActivations::kInt8, DType::kI8},
                                          {CpuActivations::kInt8, DType::kBf16},
                                          {CpuActivations::kF32, DType::kF8E4M3}}) {
    Options options;
    options.activations = activations;
    options.kv_cache_type = type;
    options.num_threads = 1;
    Model whole(config, options, 32);
    const std::vector<Logprob> expected = ScoreWhole(whole, ids);
    for (options.num_threads = 1; options.num_threads <= 4; ++options.num_threads) {
      options.block_size = 8 << options.num_threads;
      Model model(config, options, 32);
      std::mt19937 random(options.num_threads);
      std::shuffle(model.free_blocks.begin(), model.free_blocks.end(), random);
      const auto blocks = model.TakeBlocks(300), other_blocks = model.TakeBlocks(90);
      int32_t other_done = 0;
      for (int32_t first = 0; first < 300;) {
        const int32_t sizes[] = {1, 1, 7, 40};
        const int32_t count = std::min<int32_t>(sizes[random() % 4], 300 - first);
        std::vector<BatchRow> rows = {ScoreRow(model, ids, first, count, blocks)};
        if (random() % 2 && other_done < 90) {
          const int32_t more = std::min<int32_t>(1 + random() % 20, 90 - other_done);
          rows.insert(rows.begin() + random() % 2,
                      ScoreRow(model, other, other_done, more, other_blocks));
          other_done += more;
        }
        const size_t mine = rows[0].tokens.data() == ids.data() ? 0 : 1;
        const StepResult result = RunRows(model, rows);
        const auto& scored = result.rows[mine].prompt_logprobs;
        for (size_t i = 0; i < scored.size(); ++i) {
          ExpectSameBits(scored[i], expected[first + i], absl::StrCat("position ", first + i));
        }
        first += count;
      }
    }
  }
}

TEST(DeviceRunnerTest, GenerationEqualsScoringWhatWasGenerated) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  std::vector<int32_t> ids = RandomIds(4, 20, config.vocab_size);
  const auto blocks = model.TakeBlocks(100);
  model.sampling.temperature = 0;
  std::vector<Logprob> generated;
  for (int32_t computed = 0; ids.size() < 60;) {
    BatchRow row =
        ScoreRow(model, ids, computed, static_cast<int32_t>(ids.size()) - computed, blocks);
    row.prompt_length = 20;
    row.prompt_logprobs = -1;
    row.sample = true;
    row.logprobs = config.vocab_size;
    computed = static_cast<int32_t>(ids.size());
    const StepResult result = RunRows(model, {row});
    ASSERT_TRUE(result.rows[0].sampled.has_value());
    ASSERT_TRUE(result.rows[0].prompt_logprobs.empty());
    generated.push_back(*result.rows[0].sampled);
    EXPECT_EQ(generated.back().id, generated.back().top[0].first);
    ids.push_back(generated.back().id);
  }
  const std::vector<Logprob> scored = ScoreWhole(model, ids);
  for (size_t i = 0; i < generated.size(); ++i) {
    ExpectSameBits(generated[i], scored[19 + i], absl::StrCat("token ", i));
  }
}

// Each sampling parameter must reach the kernel with the right meaning.
TEST(DeviceRunnerTest, SamplingParametersReachTheDraw) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  const std::vector<int32_t> ids = RandomIds(5, 10, config.vocab_size);
  const auto blocks = model.TakeBlocks(20);
  std::vector<int32_t> forbidden;
  const auto draw = [&] {
    BatchRow row = ScoreRow(model, ids, 0, 10, blocks);
    row.prompt_logprobs = -1;
    row.sample = true;
    row.forbidden = forbidden;
    return RunRows(model, {row}).rows[0].sampled->id;
  };
  model.sampling.temperature = 0;
  const int32_t best = draw();
  forbidden = {best};
  const int32_t second = draw();
  EXPECT_NE(second, best);
  forbidden.clear();
  model.sampling.logit_bias = {{7, 100.0f}};
  EXPECT_EQ(draw(), 7);
  model.sampling.logit_bias.clear();
  model.sampling.allowed_token_ids = {11, 12};
  EXPECT_THAT(draw(), testing::AnyOf(11, 12));
  model.sampling.allowed_token_ids.clear();
  model.sampling.temperature = 5.0f;
  std::set<int32_t> drawn;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    model.sampling.seed = seed;
    drawn.insert(draw());
    EXPECT_EQ(draw(), draw());
  }
  EXPECT_GT(drawn.size(), 10u);
}

// Presence counts the output only, repetition the prompt too.
TEST(DeviceRunnerTest, PenaltiesCountPromptAndOutput) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  std::vector<int32_t> ids = RandomIds(6, 12, config.vocab_size);
  const auto blocks = model.TakeBlocks(20);
  model.sampling.temperature = 0;
  const auto draw = [&](int32_t prompt_length) {
    BatchRow row = ScoreRow(model, ids, 0, static_cast<int32_t>(ids.size()), blocks);
    row.prompt_length = prompt_length;
    row.prompt_logprobs = -1;
    row.sample = true;
    row.logprobs = config.vocab_size;
    return *RunRows(model, {row}).rows[0].sampled;
  };
  // Every token of the output is punished beyond use, none of the prompt.
  model.sampling.presence_penalty = 1000.0f;
  const Logprob plain = draw(12);
  EXPECT_EQ(plain.id, plain.top[0].first);
  const std::set<int32_t> output(ids.begin() + 4, ids.end());
  const Logprob punished = draw(4);
  for (const auto& [id, logprob] : punished.top) {
    if (output.count(id)) continue;
    EXPECT_EQ(punished.id, id) << "the likeliest that is not in the output";
    break;
  }
  model.sampling.presence_penalty = 0;
  model.sampling.frequency_penalty = 1000.0f;
  EXPECT_EQ(draw(4).id, punished.id);
  EXPECT_EQ(draw(12).id, plain.id);
}

TEST(DeviceRunnerTest, PromptScoresResumeWhereTheyStopped) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  const std::vector<int32_t> ids = RandomIds(7, 200, config.vocab_size);
  const std::vector<Logprob> all = ScoreWhole(model, ids);
  const auto blocks = model.TakeBlocks(200);
  // Recomputed after 120 positions had been scored: only the rest comes back, and the draw beside
  // it.
  BatchRow row = ScoreRow(model, ids, 0, 200, blocks);
  row.prompt_scored = 120;
  row.sample = true;
  const RowResult result = RunRows(model, {row}).rows[0];
  ASSERT_EQ(result.prompt_logprobs.size(), 79u);
  for (size_t i = 0; i < 79; ++i)
    ExpectSameBits(result.prompt_logprobs[i], all[120 + i], "resumed");
  EXPECT_TRUE(result.sampled.has_value());
}

// More positions than go through the head at a time, of two sequences, one of them resumed.
TEST(DeviceRunnerTest, LogitsAreWhatScoresComeFrom) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  const std::vector<int32_t> a = RandomIds(9, 100, config.vocab_size);
  const std::vector<int32_t> b = RandomIds(10, 40, config.vocab_size);
  const auto a_blocks = model.TakeBlocks(100), b_blocks = model.TakeBlocks(40);
  Batch batch;
  batch.rows = {ScoreRow(model, a, 0, 100, a_blocks), ScoreRow(model, b, 0, 40, b_blocks)};
  batch.rows[1].prompt_scored = 30;
  batch.num_tokens = 140;
  const StepResult scored = RunRows(model, batch.rows);
  std::vector<std::pair<int32_t, int32_t>> visited;
  const absl::Status status = model.runner->RunForLogits(
      batch, [&](int32_t row, int32_t position, absl::Span<const float> logits) {
        visited.emplace_back(row, position);
        ASSERT_EQ(static_cast<int32_t>(logits.size()), config.vocab_size);
        const size_t index = position - batch.rows[row].prompt_scored;
        if (index == scored.rows[row].prompt_logprobs.size()) return;  // the last: no next token
        const Logprob& score = scored.rows[row].prompt_logprobs[index];
        double sum = 0;
        for (float logit : logits) sum += std::exp(double{logit});
        EXPECT_NEAR(score.logprob, logits[score.id] - std::log(sum), 1e-5);
      });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(visited.size(), 110u) << "all of a, and b from 30 on";
  EXPECT_EQ(visited.front(), std::make_pair(0, 0));
  EXPECT_EQ(visited[100], std::make_pair(1, 30));
  EXPECT_TRUE(std::is_sorted(visited.begin(), visited.end()));
}

TEST(DeviceRunnerTest, CountsTheLayersItRuns) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  EXPECT_EQ(model.runner->layers_run(), 0);
  for (int steps = 1; steps <= 3; ++steps) {
    ScoreWhole(model, RandomIds(steps, 20, config.vocab_size));
    EXPECT_EQ(model.runner->layers_run(), steps * config.num_layers);
  }
}

TEST(DeviceRunnerTest, ReportsLimitsBytesAndProgress) {
  const ModelConfig config = TinyConfig();
  const TinyWeights weights(config, 1);
  auto backend = CreateCpuBackend(CpuOptions{}).value();
  RunnerOptions options;
  options.max_context = 100;
  options.block_size = 8;
  const int64_t rows = 2 * 2 * 2 * 8;         // k and v, layers, kv heads, tokens
  const int64_t block_bytes = rows * 16 * 2;  // head_dim, f16
  EXPECT_EQ(KvCache::BlockBytes(config, 8, DType::kBf16), block_bytes);
  EXPECT_EQ(KvCache::BlockBytes(config, 8, DType::kI8), rows * (16 + 4)) << "and a scale";
  EXPECT_EQ(KvCache::BlockBytes(config, 8, DType::kF8E4M3), rows * (16 + 4));
  options.kv_cache_bytes = 20 * block_bytes + 1;
  std::vector<std::pair<int64_t, int64_t>> heard;
  const auto runner =
      DeviceRunner::Create(*backend, config, weights, options, [&](int64_t done, int64_t total) {
        heard.emplace_back(done, total);
      }).value();
  EXPECT_EQ(runner->limits().num_blocks, 20);
  EXPECT_EQ(runner->limits().max_context, 100);
  EXPECT_EQ(runner->limits().vocab_size, config.vocab_size);
  EXPECT_EQ(runner->bytes().kv_cache, 20 * block_bytes);
  EXPECT_GT(runner->bytes().weights, 0);
  EXPECT_GT(runner->bytes().workspace, 0);
  ASSERT_FALSE(heard.empty());
  EXPECT_TRUE(std::is_sorted(heard.begin(), heard.end()));
  EXPECT_EQ(heard.back().first, heard.back().second);
}

TEST(DeviceRunnerTest, RefusesWhatCannotWork) {
  const ModelConfig config = TinyConfig();
  auto backend = CreateCpuBackend(CpuOptions{}).value();
  const auto status = [&](const ModelConfig& c, RunnerOptions options, const char* removed = "") {
    TinyWeights weights(config, 1);
    weights.Remove(removed);
    return DeviceRunner::Create(*backend, c, weights, options, nullptr).status();
  };
  RunnerOptions options;
  options.kv_cache_bytes = 1000;
  const absl::Status small = status(config, options);
  EXPECT_EQ(small.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(small.message()), HasSubstr("640 tokens needs 163840 bytes"));
  EXPECT_THAT(std::string(small.message()), HasSubstr("--kv-cache-mib"));

  options = RunnerOptions{};
  options.kv_cache_type = DType::kF32;
  EXPECT_EQ(status(config, options).code(), absl::StatusCode::kInvalidArgument);
  options = RunnerOptions{};
  for (int32_t block_size : {0, 4, 24, 512}) {
    options.block_size = block_size;
    EXPECT_EQ(status(config, options).code(), absl::StatusCode::kInvalidArgument) << block_size;
  }
  options = RunnerOptions{};
  options.max_context = 641;
  EXPECT_THAT(std::string(status(config, options).message()), HasSubstr("641"));
  options = RunnerOptions{};
  options.max_batch_tokens = 0;
  EXPECT_EQ(status(config, options).code(), absl::StatusCode::kInvalidArgument);
  options = RunnerOptions{};
  options.max_sequences = 0;
  EXPECT_EQ(status(config, options).code(), absl::StatusCode::kInvalidArgument);

  const absl::Status missing = status(config, RunnerOptions{}, "blk.1.ffn_up.weight");
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("blk.1.ffn_up.weight"));
  ModelConfig odd = config;
  odd.num_kv_heads = 3;
  EXPECT_EQ(status(odd, RunnerOptions{}).code(), absl::StatusCode::kInvalidArgument);
  odd = config;
  odd.rotary_dim = 17;
  EXPECT_THAT(std::string(status(odd, RunnerOptions{}).message()), HasSubstr("rotary_dim"));
}

TEST(DeviceRunnerTest, ABrokenModelFailsTheStepAsInternal) {
  const ModelConfig config = TinyConfig();
  Model model(config);
  const std::vector<int32_t> ids = RandomIds(8, 4, config.vocab_size);
  const auto blocks = model.TakeBlocks(4);
  model.sampling.allowed_token_ids = {3};
  BatchRow row = ScoreRow(model, ids, 0, 4, blocks);
  const int32_t forbidden = 3;
  row.forbidden = absl::MakeConstSpan(&forbidden, 1);
  row.prompt_logprobs = -1;
  row.sample = true;
  Batch batch;
  batch.rows = {row};
  batch.num_tokens = 4;
  EXPECT_EQ(model.runner->Run(batch).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace nibble
