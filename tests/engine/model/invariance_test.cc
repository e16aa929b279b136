// The guarantee of kernels/ops.h, held on whole models: the logits of a sequence are the same bits
// whatever else is in the batch, however its prompt was chunked, cached or preempted, wherever its
// blocks lie and whatever they held before, for any number of threads and any block size.
//
// The reference is the sequence alone, in one chunk, on one thread. Models, sequences and schedules
// come from a seed. NIBBLE_INVARIANCE_CASES=n runs n seeds a path (7 otherwise),
// NIBBLE_INVARIANCE_SEED=s only seed s; a failure prints the seed. NIBBLE_MODEL=FILE adds a real
// model.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/gguf_model.h"
#include "engine/weights/gguf_file.h"
#include "tests/engine/model/compute_path.h"
#include "tests/engine/model/random_decoder.h"
#include "tests/engine/model/random_schedule.h"

namespace nibble {
namespace {

constexpr int32_t kThreads[] = {1, 2, 3, 5, 8, 16, 64};  // beyond the cores of any test machine

constexpr int64_t kCases = 7;  // each number of threads once

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

std::vector<ScheduledSequence> RandomSequences(std::mt19937& random, int32_t num_words,
                                               int32_t longest) {
  std::vector<ScheduledSequence> sequences(3 + random() % 4);
  for (size_t s = 0; s < sequences.size(); ++s) {
    ScheduledSequence& sequence = sequences[s];
    const bool is_long = s == 0 && random() % 2 == 0;
    const int32_t size = 1 + random() % (is_long ? longest : std::min(longest, 120));
    if (s > 0 && random() % 2) {
      sequence.parent = static_cast<int32_t>(random() % s);
      const std::vector<int32_t>& ids = sequences[sequence.parent].ids;
      sequence.shared_tokens = static_cast<int32_t>(
          std::min<size_t>({ids.size(), 1 + random() % ids.size(), static_cast<size_t>(size)}));
      sequence.ids.assign(ids.begin(), ids.begin() + sequence.shared_tokens);
    }
    while (static_cast<int32_t>(sequence.ids.size()) < size) {
      sequence.ids.push_back(static_cast<int32_t>(random() % num_words));
    }
    sequence.passes = 1 + random() % 2;
  }
  return sequences;
}

// Runs the sequences by a random schedule and compares every position with `expected`. `soil`: the
// id whose k and v every block holds at first, or -1. Sequences beyond `expected` are company only.
void ExpectInvariant(LogitsRunner& runner, const std::vector<ScheduledSequence>& sequences,
                     const std::vector<std::vector<float>>& expected, int32_t soil, uint32_t seed,
                     ScheduleCoverage* coverage) {
  RandomSchedule schedule(runner, sequences, seed);
  if (soil >= 0) {
    ASSERT_TRUE(schedule.Soil(soil).ok());
  }
  std::string first;  // the first difference is enough to look at
  std::vector<int64_t> seen(sequences.size());
  const absl::Status status = schedule.Run([&](int32_t s, int32_t position,
                                               absl::Span<const float> logits) {
    if (s >= static_cast<int32_t>(expected.size())) return;
    ++seen[s];
    const float* wanted = &expected[s][size_t(position) * logits.size()];
    if (!first.empty() || std::memcmp(wanted, logits.data(), logits.size() * sizeof(float)) == 0) {
      return;
    }
    size_t word = 0;
    while (std::memcmp(&wanted[word], &logits[word], sizeof(float)) == 0) ++word;
    first =
        absl::StrCat("sequence ", s, " position ", position, " logit ", word, ": ", logits[word],
                     ", alone ", wanted[word], ", difference ", logits[word] - wanted[word]);
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(first, "");
  for (size_t s = 0; s < expected.size(); ++s) EXPECT_GT(seen[s], 0);
  *coverage += schedule.coverage;
}

// One seed: a model, its sequences, the reference of each, and one schedule.
void RunCase(const ComputePath& path, uint32_t seed, ScheduleCoverage* coverage) {
  std::mt19937 random(seed);
  const ModelConfig config = RandomConfig(random);
  const int32_t poison_id = config.vocab_size - 1;
  const float poisons[] = {std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity(), 3e38f};
  const auto scratch = CreateCpuBackend({.num_threads = 1, .isa = path.isa}).value();
  const RandomWeights weights(*scratch, seed, poison_id, poisons[seed % std::size(poisons)]);
  std::vector<ScheduledSequence> sequences = RandomSequences(random, poison_id, 640);
  std::vector<std::vector<float>> expected;
  RunnerShape shape;
  {
    const Device alone = MakeDevice(path, config, weights, shape);
    for (const ScheduledSequence& sequence : sequences) {
      expected.push_back(LogitsAlone(*alone.runner, sequence.ids));
    }
  }
  // A neighbour with NaN or infinity in every activation, in half of the cases.
  if (random() % 2) {
    sequences.emplace_back();
    sequences.back().ids.assign(1 + random() % 100, poison_id);
  }
  shape.num_threads = kThreads[seed % std::size(kThreads)];
  shape.block_size = 8 << random() % 6;
  const int32_t steps[] = {29, 64, 200, 700};
  shape.max_batch_tokens = steps[random() % std::size(steps)];
  shape.max_sequences = static_cast<int32_t>(sequences.size());
  shape.cache_tokens = 0;
  for (const ScheduledSequence& sequence : sequences) {
    shape.cache_tokens += static_cast<int64_t>(sequence.ids.size()) + shape.block_size;
  }
  shape.cache_tokens = std::max<int64_t>(shape.cache_tokens, config.context_length);
  SCOPED_TRACE(absl::StrCat("NIBBLE_INVARIANCE_SEED=", seed, " ", NameOf(path), " threads ",
                            shape.num_threads, " block size ", shape.block_size, " tokens a step ",
                            shape.max_batch_tokens));
  const Device device = MakeDevice(path, config, weights, shape);
  ExpectInvariant(*device.runner, sequences, expected, random() % 2 ? poison_id : -1, seed,
                  coverage);
}

class InvarianceTest : public testing::TestWithParam<ComputePath> {};

TEST_P(InvarianceTest, NothingAroundASequenceChangesABitOfItsLogits) {
  const int64_t only = FromEnvironment("NIBBLE_INVARIANCE_SEED", -1);
  const int64_t cases = only >= 0 ? 1 : FromEnvironment("NIBBLE_INVARIANCE_CASES", kCases);
  const int64_t begin = only >= 0 ? only : 1;
  ScheduleCoverage coverage;
  for (int64_t seed = begin; seed < begin + cases && !HasFailure(); ++seed) {
    RunCase(GetParam(), static_cast<uint32_t>(seed), &coverage);
  }
  std::printf(
      "%s, seeds %ld to %ld: %ld steps, %ld chunks, %ld lone decodes past 512, "
      "%ld preemptions, %ld shared blocks\n",
      NameOf(GetParam()).c_str(), begin, begin + cases - 1, coverage.steps, coverage.chunks,
      coverage.lone_decodes, coverage.preemptions, coverage.shared_blocks);
  if (cases < kCases || HasFailure()) return;
  for (int64_t reached : {coverage.lone_decodes, coverage.preemptions, coverage.shared_blocks}) {
    EXPECT_GT(reached, 0) << "the schedules no longer reach what they are for";
  }
  EXPECT_GT(coverage.chunks, 1.5 * coverage.steps) << "hardly anybody has company";
}

INSTANTIATE_TEST_SUITE_P(EveryPath, InvarianceTest, testing::ValuesIn(ComputePaths()),
                         [](const auto& info) { return NameOf(info.param); });

// Its shapes and formats, and a vocabulary that is split over threads.
TEST(InvarianceModelTest, HoldsForARealModel) {
  const char* path = std::getenv("NIBBLE_MODEL");
  if (path == nullptr) GTEST_SKIP() << "NIBBLE_MODEL names no model file: run `make model`";
  const GgufFile file = GgufFile::Open(path).value();
  ModelConfig config;
  ASSERT_TRUE(ReadHyperparameters(file, config).ok());
  const auto weights = MakeGgufSource(file);
  const uint32_t seed = static_cast<uint32_t>(FromEnvironment("NIBBLE_INVARIANCE_SEED", 1));
  for (CpuActivations activations :
       {CpuActivations::kInt8, CpuActivations::kInt16, CpuActivations::kF32}) {
    const ComputePath way{CpuIsa::kAuto, activations};
    SCOPED_TRACE(absl::StrCat("NIBBLE_INVARIANCE_SEED=", seed, " ", NameOf(way)));
    std::mt19937 random(seed);
    std::vector<ScheduledSequence> sequences = RandomSequences(random, config.vocab_size, 60);
    sequences.resize(2);
    RunnerShape shape;
    shape.max_context = 256;
    std::vector<std::vector<float>> expected;
    {
      const Device alone = MakeDevice(way, config, *weights, shape);
      for (const ScheduledSequence& sequence : sequences) {
        expected.push_back(LogitsAlone(*alone.runner, sequence.ids));
      }
    }
    shape.num_threads = 3;
    shape.block_size = 16;
    shape.max_sequences = 2;
    const Device device = MakeDevice(way, config, *weights, shape);
    ScheduleCoverage coverage;
    ExpectInvariant(*device.runner, sequences, expected, 7, seed, &coverage);
  }
}

}  // namespace
}  // namespace nibble
