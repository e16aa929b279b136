// NaN, infinity and overflow in one sequence's activations: what its neighbours get, what it gets
// itself, and what a step that draws reports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/engine/model/compute_path.h"
#include "tests/engine/model/random_decoder.h"

namespace nibble {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int32_t> RandomIds(uint32_t seed, int32_t n, int32_t num_words) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % num_words);
  return ids;
}

// Sequences in a batch, each whole; sequence 1 is poisoned from its token `poisoned_from` on.
class Poisoned {
 public:
  Poisoned(const ComputePath& path, float poison, uint32_t seed) : random_(seed) {
    config_ = RandomConfig(random_);
    const int32_t poison_id = config_.vocab_size - 1;
    const auto scratch = CreateCpuBackend({.num_threads = 1, .isa = path.isa}).value();
    const RandomWeights weights(*scratch, seed, poison_id, poison);
    RunnerShape shape;
    shape.num_threads = 3;
    shape.block_size = seed % 2 ? 8 : 64;  // partly filled blocks of both sides of a tile's size
    shape.max_sequences = 3;
    device = MakeDevice(path, config_, weights, shape);
    for (uint32_t s = 0; s < 3; ++s) {
      ids.push_back(RandomIds(seed + s, 30 + 7 * static_cast<int32_t>(s), poison_id));
      blocks.emplace_back(64 / shape.block_size);
      std::iota(blocks.back().begin(), blocks.back().end(),
                static_cast<int32_t>(s * blocks.back().size()));
    }
    std::fill(ids[1].begin() + kPoisonedFrom, ids[1].end(), poison_id);
  }

  static constexpr int32_t kPoisonedFrom = 10;

  // A step of the whole of `sequences`, which draws when it is run by Run.
  Batch Step(const std::vector<int32_t>& sequences) const {
    Batch batch;
    for (int32_t s : sequences) {
      BatchRow row;
      row.sequence_id = s;
      row.tokens = ids[s];
      row.prompt_length = row.num_scheduled = static_cast<int32_t>(ids[s].size());
      row.block_table = blocks[s];
      row.sampling = &sampling_;
      row.logprobs = 5;
      row.sample = true;
      batch.rows.push_back(row);
      batch.num_tokens += row.num_scheduled;
    }
    return batch;
  }

  // Of each row of the step: logits [n, vocab_size].
  std::vector<std::vector<float>> Logits(const Batch& batch) {
    std::vector<std::vector<float>> all(batch.rows.size());
    const absl::Status status = device.runner->RunForLogits(
        batch, [&](int32_t row, int32_t, absl::Span<const float> logits) {
          all[row].insert(all[row].end(), logits.begin(), logits.end());
        });
    EXPECT_TRUE(status.ok()) << status;
    return all;
  }

  int32_t vocab_size() const { return config_.vocab_size; }

  Device device;
  std::vector<std::vector<int32_t>> ids, blocks;

 private:
  std::mt19937 random_;
  ModelConfig config_;
  SamplingParams sampling_;
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class PoisonTest : public testing::TestWithParam<ComputePath> {};

TEST_P(PoisonTest, ItStaysWithItsSequenceFromItsTokenOn) {
  for (float poison : {kNan, kInf, -kInf, 3e38f}) {
    for (uint32_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(testing::Message() << "poison " << poison << " seed " << seed);
      Poisoned model(GetParam(), poison, seed);
      std::vector<std::vector<float>> alone;
      for (int32_t s : {0, 1, 2}) alone.push_back(model.Logits(model.Step({s}))[0]);
      const auto together = model.Logits(model.Step({0, 1, 2}));
      EXPECT_TRUE(SameBits(together[0], alone[0]));
      EXPECT_TRUE(SameBits(together[2], alone[2]));
      for (int32_t s : {0, 2}) {
        EXPECT_TRUE(std::all_of(together[s].begin(), together[s].end(),
                                [](float x) { return std::isfinite(x); }));
      }
      const auto clean_end = together[1].begin() + Poisoned::kPoisonedFrom * model.vocab_size();
      EXPECT_TRUE(std::all_of(together[1].begin(), clean_end, [](float x) {
        return std::isfinite(x);
      })) << "positions before the poison do not see it";
      if (std::isfinite(poison)) continue;  // overflow may end as zeros: finite, and its own affair
      EXPECT_TRUE(std::none_of(clean_end, together[1].end(), [](float x) {
        return std::isfinite(x);
      })) << "a poisoned position must not look healthy";
    }
  }
}

// The design's contract (kernels/ops.h): rows that cannot be drawn latch the fault of "sample",
// which fails the step for everybody in it. The runner itself is not broken by it.
TEST_P(PoisonTest, ADrawFromItFailsTheStepAsSampleAndTheNextStepIsSound) {
  for (float poison : {kNan, kInf}) {
    Poisoned model(GetParam(), poison, 1);
    const StepResult before = model.device.runner->Run(model.Step({0, 2})).value();
    const absl::Status failed = model.device.runner->Run(model.Step({0, 1, 2})).status();
    EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(failed.message()), testing::HasSubstr("op 'sample'"));
    const absl::StatusOr<StepResult> after = model.device.runner->Run(model.Step({0, 2}));
    ASSERT_TRUE(after.ok()) << after.status() << ": the fault is reported once";
    for (int row : {0, 1}) {
      EXPECT_EQ(after->rows[row].sampled->id, before.rows[row].sampled->id);
      EXPECT_EQ(after->rows[row].sampled->top, before.rows[row].sampled->top);
    }
  }
}

// A freed block keeps its bytes: what a poisoned sequence left must not reach the next owner, not
// even through positions of the block that it has not filled yet.
TEST_P(PoisonTest, BlocksItLeavesAreCleanForTheNextOwner) {
  for (float poison : {kNan, kInf}) {
    for (uint32_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(testing::Message() << "poison " << poison << " seed " << seed);
      Poisoned model(GetParam(), poison, seed);
      const std::vector<float> expected = model.Logits(model.Step({0}))[0];
      model.blocks[1] = model.blocks[0];
      model.Logits(model.Step({1}));
      EXPECT_TRUE(SameBits(model.Logits(model.Step({0}))[0], expected));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryPath, PoisonTest, testing::ValuesIn(ComputePaths()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace nibble
