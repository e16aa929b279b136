// Sampling on the emulator, against the CPU backend's: the same tokens for the same rows and seeds,
// with every setting alone and together, of one block a row and of several, ties at the cuts, more
// of them than are listed, rows that nothing can be drawn from, and log probabilities.
#include "kernels/cuda/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "kernels/cpu/sample.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

constexpr int32_t kVocab = 777, kLogitsRows = 3;
constexpr int32_t kSliceIds = 8192, kSlices = 3;  // of a block; blocks of the large vocabulary
constexpr int32_t kLargeVocab = 2 * kSliceIds + 1001;
constexpr float kNone = -std::numeric_limits<float>::infinity();

int32_t VocabOf(const std::vector<float>& logits) {
  return static_cast<int32_t>(logits.size()) / kLogitsRows;
}

std::vector<float> RandomLogits(uint32_t seed, float step = 0, int32_t vocab = kVocab) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(static_cast<size_t>(kLogitsRows) * vocab);
  // With a step many logits are equal.
  for (float& x : logits) {
    x = normal(random);
    if (step != 0) x = std::round(x / step) * step;
  }
  return logits;
}

// One launch's rows, as the op describes them; lists become the device's.
struct Drawn {
  std::vector<DrawnToken> tokens;
  std::vector<LikelyToken> likely;
};

constexpr int32_t kMaxLogprobs = 4;

Drawn DrawOnDevice(const std::vector<float>& logits, const std::vector<SampleRow>& rows) {
  std::vector<SampleSettings> settings;
  std::vector<SeenToken> seen = {{}};
  std::vector<BiasedToken> bias = {{}};
  std::vector<int32_t> ids = {0};
  const auto range = [](auto& list, size_t added) {
    const auto end = static_cast<int32_t>(list.size());
    return ListRange{end - static_cast<int32_t>(added), end};
  };
  for (const SampleRow& row : rows) {
    SampleSettings s{row.logits_row, row.temperature, row.top_k, row.top_p, row.min_p};
    s.repetition_penalty = row.repetition_penalty;
    s.presence_penalty = row.presence_penalty;
    s.frequency_penalty = row.frequency_penalty;
    s.seed = row.seed;
    s.counter = row.counter;
    s.score_id = row.score_id;
    s.num_logprobs = row.num_logprobs;
    for (const TokenCount& t : row.seen) seen.push_back({t.id, t.in_prompt, t.in_output});
    s.seen = range(seen, row.seen.size());
    for (const LogitBias& b : row.bias) bias.push_back({b.id, b.bias});
    s.bias = range(bias, row.bias.size());
    ids.insert(ids.end(), row.allowed.begin(), row.allowed.end());
    s.allowed = range(ids, row.allowed.size());
    ids.insert(ids.end(), row.forbidden.begin(), row.forbidden.end());
    s.forbidden = range(ids, row.forbidden.size());
    settings.push_back(s);
  }
  const int32_t vocab = VocabOf(logits);
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<uint8_t> scratch(rows.size() * SampleScratchBytes(vocab));
  const DeviceArray<SampleSettings> device_settings(settings);
  const DeviceArray<SeenToken> device_seen(seen);
  const DeviceArray<BiasedToken> device_bias(bias);
  const DeviceArray<int32_t> device_ids(ids);
  const DeviceArray<DrawnToken> drawn(rows.size());
  const DeviceArray<LikelyToken> likely(
      std::vector<LikelyToken>(rows.size() * kMaxLogprobs, LikelyToken{}));
  const SampleCall call{.logits = device_logits.data(),
                        .logits_stride = vocab,
                        .vocab_size = vocab,
                        .rows = static_cast<int32_t>(rows.size()),
                        .settings = device_settings.data(),
                        .seen = device_seen.data(),
                        .bias = device_bias.data(),
                        .ids = device_ids.data(),
                        .scratch = scratch.data(),
                        .drawn = drawn.data(),
                        .likely = likely.data(),
                        .max_logprobs = kMaxLogprobs};
  EXPECT_EQ(LaunchSample(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  // Bytes, for a NaN is not equal to itself.
  EXPECT_EQ(std::memcmp(device_logits.Read().data(), logits.data(), logits.size() * 4), 0)
      << "logits are not changed";
  return {drawn.Read(), likely.Read()};
}

// Without a value where the CPU backend can draw nothing.
std::optional<SampledToken> DrawOnCpu(const std::vector<float>& logits, const SampleRow& row) {
  cpu::SampleScratch scratch;
  SampledToken token;
  const int32_t vocab = VocabOf(logits);
  if (!cpu::SampleOneRow(cpu::kScalarRowKernels, &logits[int64_t{row.logits_row} * vocab], vocab,
                         row, scratch, &token)) {
    return std::nullopt;
  }
  return token;
}

void ExpectTheTokensOfTheCpu(const std::vector<float>& logits, const std::vector<SampleRow>& rows) {
  const Drawn drawn = DrawOnDevice(logits, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE("row " + std::to_string(i));
    const std::optional<SampledToken> expected = DrawOnCpu(logits, rows[i]);
    ASSERT_EQ(drawn.tokens[i].id, expected.has_value() ? expected->id : -1);
    if (!expected.has_value() || rows[i].num_logprobs < 0) continue;
    EXPECT_NEAR(drawn.tokens[i].logprob, expected->logprob, 1e-4);
    for (int n = 0; n < rows[i].num_logprobs; ++n) {
      EXPECT_EQ(drawn.likely[i * kMaxLogprobs + n].id, expected->top[n].id);
      EXPECT_NEAR(drawn.likely[i * kMaxLogprobs + n].logprob, expected->top[n].logprob, 1e-4);
    }
  }
}

std::vector<SampleRow> Rows(int32_t n, const SampleRow& like) {
  std::vector<SampleRow> rows;
  for (int32_t i = 0; i < n; ++i) {
    rows.push_back(like);
    rows.back().logits_row = i % 3;
    rows.back().seed = 0x123456789ABCDEFull * (i + 1);
    rows.back().counter = 1000 + i;
  }
  return rows;
}

struct SettingsCase {
  std::string name;
  SampleRow row;
};

class SampleTest : public testing::TestWithParam<SettingsCase> {};

TEST_P(SampleTest, DrawsWhatTheCpuDraws) {
  ExpectTheTokensOfTheCpu(RandomLogits(1), Rows(9, GetParam().row));
}

// Steps of 2 make a few hundred logits equal, also at the cuts.
TEST_P(SampleTest, DrawsWhatTheCpuDrawsAmongTies) {
  ExpectTheTokensOfTheCpu(RandomLogits(2, 2.0f), Rows(6, GetParam().row));
}

TEST_P(SampleTest, DrawsWhatTheCpuDrawsFromSeveralBlocks) {
  SampleRow row = GetParam().row;
  if (row.num_logprobs > 0) row.num_logprobs = 1;  // a pass each
  ExpectTheTokensOfTheCpu(RandomLogits(11, 0, kLargeVocab), Rows(3, row));
}

// Steps of 3 leave a dozen values to a vocabulary: thousands are equal at each cut, and no list
// holds them.
TEST_P(SampleTest, DrawsWhatTheCpuDrawsAmongMoreTiesThanAreListed) {
  ExpectTheTokensOfTheCpu(RandomLogits(12, 3.0f, kSliceIds + 500), Rows(2, GetParam().row));
}

INSTANTIATE_TEST_SUITE_P(
    Each, SampleTest,
    testing::Values(
        SettingsCase{"Greedy", {.num_logprobs = 3}},
        SettingsCase{"Temperature", {.temperature = 0.8f}},
        SettingsCase{"HighTemperature", {.temperature = 2, .num_logprobs = 0}},
        SettingsCase{"TopK", {.temperature = 1, .top_k = 7}},
        SettingsCase{"TopKOfOne", {.temperature = 1, .top_k = 1}},
        SettingsCase{"TopKAboveTheVocabulary", {.temperature = 1, .top_k = 5000}},
        SettingsCase{"TopP", {.temperature = 1, .top_p = 0.9f}},
        SettingsCase{"SmallTopP", {.temperature = 1, .top_p = 1e-6f}},
        SettingsCase{"LargeTopK", {.temperature = 1, .top_k = 600}},
        SettingsCase{"LargeTopP", {.temperature = 3, .top_p = 0.999f}},
        SettingsCase{"TopPOfLargeTopK", {.temperature = 2, .top_k = 500, .top_p = 0.5f}},
        SettingsCase{"TopPAndMinP", {.temperature = 2, .top_p = 0.95f, .min_p = 0.01f}},
        SettingsCase{"MinP", {.temperature = 1.5f, .min_p = 0.1f}},
        SettingsCase{"All", {.temperature = 1.2f, .top_k = 40, .top_p = 0.85f, .min_p = 0.02f}}),
    [](const auto& info) { return info.param.name; });

TEST(Sample, AdjustsLogitsAsTheCpuDoes) {
  const std::vector<float> logits = RandomLogits(3);
  const std::vector<TokenCount> seen = {{3, 1, 0}, {5, 0, 2}, {700, 2, 3}, {776, 0, 1}};
  const std::vector<LogitBias> bias = {{9, 8.0f}, {11, -3.0f}, {700, 7.5f}};
  const std::vector<int32_t> allowed = {5, 9, 11, 300, 700, 776}, forbidden = {9, 400};
  std::vector<SampleRow> rows = Rows(8, {.temperature = 1});
  rows[0].bias = bias;
  rows[1].allowed = allowed;
  rows[2].allowed = allowed;
  rows[2].forbidden = forbidden;
  rows[2].num_logprobs = 2;  // of the untouched row
  rows[3].forbidden = forbidden;
  rows[3].bias = bias;
  for (size_t i = 4; i < 8; ++i) {
    rows[i].seen = seen;
    rows[i].bias = bias;
    rows[i].temperature = i % 2 == 0 ? 0.0f : 0.7f;
  }
  rows[4].repetition_penalty = 1.5f;
  rows[5].repetition_penalty = 1.5f;
  rows[5].presence_penalty = 0.5f;
  rows[6].frequency_penalty = 2.5f;
  rows[7].presence_penalty = 1.5f;
  rows[7].frequency_penalty = 0.25f;
  ExpectTheTokensOfTheCpu(logits, rows);
}

// Only the model's own logits may make a row unusable, never what a request asks for.
TEST(Sample, KeepsFiniteLogitsFinite) {
  const std::vector<TokenCount> seen = {{3, 1, 0}, {5, 0, 2}, {700, 2, 3}};
  const std::vector<LogitBias> bias = {{3, 100.0f}, {5, -3e38f}, {9, 3e38f}};
  std::vector<SampleRow> rows = Rows(9, {.repetition_penalty = 1e-38f});
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].temperature = i % 3 == 0 ? 0.0f : i % 3 == 1 ? 1e-38f : 1.0f;
    rows[i].seen = seen;
    rows[i].bias = bias;
    if (i >= 3) rows[i].presence_penalty = -10;
    if (i >= 6) rows[i].repetition_penalty = 1e38f;
  }
  const std::vector<float> logits = RandomLogits(8);
  for (const DrawnToken& drawn : DrawOnDevice(logits, rows).tokens) EXPECT_GE(drawn.id, 0);
  ExpectTheTokensOfTheCpu(logits, rows);
}

TEST(Sample, ScoresPromptTokensWithoutDrawing) {
  std::vector<SampleRow> rows = Rows(3, {.num_logprobs = 4});
  for (int32_t i = 0; i < 3; ++i) rows[i].score_id = i * 388;
  ExpectTheTokensOfTheCpu(RandomLogits(4), rows);
}

TEST(Sample, SaysWhereNothingCanBeDrawn) {
  std::vector<float> logits = RandomLogits(5);
  logits[500] = std::numeric_limits<float>::quiet_NaN();
  std::fill(logits.begin() + kVocab, logits.begin() + 2 * kVocab, kNone);
  logits[2 * kVocab + 7] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(DrawOnDevice(logits, Rows(3, {.temperature = 1})).tokens,
              testing::Each(testing::Field(&DrawnToken::id, -1)));
  EXPECT_THAT(DrawOnDevice(logits, Rows(3, {})).tokens,
              testing::Each(testing::Field(&DrawnToken::id, -1)));
}

TEST(Sample, DrawsARowTheSameAmongAnyRowsAndInAnyOrder) {
  const std::vector<float> logits = RandomLogits(6);
  const std::vector<SampleRow> rows = Rows(6, {.temperature = 1, .top_p = 0.95f});
  const Drawn all = DrawOnDevice(logits, rows);
  TheGpu().SetSeed(9);
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(DrawOnDevice(logits, {rows[i]}).tokens[0].id, all.tokens[i].id) << i;
  TheGpu().SetSeed(0);
}

// Cuts that fall anywhere, among few likely ids and many: the draws tell where.
TEST(Sample, DrawsWhatTheCpuDrawsWhateverTheCuts) {
  std::mt19937 random(13);
  const auto uniform = [&] { return std::uniform_real_distribution<float>(0, 1)(random); };
  const std::vector<float> logits = RandomLogits(14, 0, kSliceIds + 100);
  std::vector<SampleRow> rows = Rows(30, {});
  for (SampleRow& row : rows) {
    row.temperature = std::exp2(4 * uniform() - 2);
    if (uniform() < 0.7f) row.top_k = 1 + static_cast<int32_t>(std::exp2(11 * uniform()));
    if (uniform() < 0.7f) row.top_p = 1 - std::exp2(-8 * uniform());
    if (uniform() < 0.3f) row.min_p = std::exp2(-10 * uniform());
  }
  ExpectTheTokensOfTheCpu(logits, rows);
}

// What a row asks for, in bytes of it: the passes that sample.h states, the slice that a token is
// drawn from, and for each of the blocks' 16 warps what the row's settings and bins take.
TEST(Sample, AsksForItsRowAsOftenAsItStates) {
  constexpr uint64_t kRowBytes = kLargeVocab * 4, kSliceBytes = kSliceIds * 4;
  const std::vector<float> logits = RandomLogits(7, 0, kLargeVocab);
  struct {
    const char* what;
    SampleRow row;
    uint64_t passes, slices;
    uint64_t more;  // bytes, of each of the row's blocks
  } const cases[] = {
      {"greedy", {}, 1, 0, 12 << 10},
      {"temperature", {.temperature = 1}, 2, 1, 12 << 10},
      {"top_k", {.temperature = 1, .top_k = 40}, 3, 1, 40 << 10},
      {"top_k and top_p", {.temperature = 1, .top_k = 40, .top_p = 0.9f}, 3, 1, 40 << 10},
  };
  for (const auto& c : cases) {
    TheGpu().ResetCounts();
    DrawOnDevice(logits, Rows(1, c.row));
    const emulator::Counts counts = TheGpu().counts();
    std::printf("%-16s %.2f times the row's bytes, %d barriers, %d and %d atomics\n", c.what,
                static_cast<double>(counts.global_read_bytes) / kRowBytes,
                static_cast<int>(counts.barriers), static_cast<int>(counts.shared_atomics),
                static_cast<int>(counts.atomics));
    EXPECT_LE(counts.global_read_bytes,
              c.passes * kRowBytes + c.slices * kSliceBytes + kSlices * c.more)
        << c.what;
    EXPECT_LE(counts.barriers, 150u) << c.what;
  }
}

TEST(Sample, RefusesCallsItWouldGetWrong) {
  const DeviceArray<float> logits(std::vector<float>(8, 0));
  const DeviceArray<SampleSettings> settings(std::vector<SampleSettings>(1));
  const DeviceArray<DrawnToken> drawn(1);
  const DeviceArray<uint8_t> scratch(SampleScratchBytes(8));
  const SampleCall good{.logits = logits.data(),
                        .logits_stride = 8,
                        .vocab_size = 8,
                        .rows = 1,
                        .settings = settings.data(),
                        .scratch = scratch.data(),
                        .drawn = drawn.data()};
  const auto error = [&](auto change) {
    SampleCall call = good;
    change(call);
    return LaunchSample(call, nullptr);
  };
  EXPECT_EQ(error([](SampleCall&) {}), cudaSuccess);
  EXPECT_EQ(error([](SampleCall& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](SampleCall& c) { c.rows = 65536; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](SampleCall& c) { c.vocab_size = 1 << 20; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](SampleCall& c) { c.scratch = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](SampleCall& c) { c.drawn = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](SampleCall& c) { c.max_logprobs = 1; }), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda
