// Whole steps through RunStep on the emulator: a copy, an embedding, a head and a draw, replayed as
// one graph, against the same steps op by op; how many copies and launches each takes; tokens that
// go from step to step on the device; and the steps that are no graph.
#include "kernels/cuda/step_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "emulator/gpu.h"
#include "kernels/backend.h"
#include "kernels/cuda/sample.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using testing::HasSubstr;

constexpr int32_t kVocab = 200, kHidden = 64;

// The smallest model there is: a token's embedding, and the logits of the next one.
class TinyStep {
 public:
  TinyStep(bool graphs, int32_t rows, int64_t workspace_bytes = int64_t{4} << 20)
      : rows_(rows), ids_(rows), settings_(rows), out_(rows) {
    CudaOptions options;
    options.graphs = graphs;
    options.workspace_bytes = workspace_bytes;
    backend_ = CreateCudaBackend(options).value();
    const auto matrix = [&](uint32_t seed) {
      return backend_
          ->Pack(quant::RandomMatrix(
              {.format = quant::Format::kBf16, .rows = kVocab, .cols = kHidden, .group = 0}, seed))
          .value();
    };
    table_ = matrix(1);
    head_ = matrix(2);
    device_ids_ = backend_->Allocate(int64_t{rows} * 4, "ids").value();
    drawn_ = backend_->Allocate(int64_t{rows} * 4, "drawn").value();
    hidden_ = backend_->Allocate(int64_t{rows} * kHidden * 2, "hidden").value();
    logits_ = backend_->Allocate(int64_t{rows} * kVocab * 4, "logits").value();
    for (int32_t i = 0; i < rows; ++i) {
      ids_[i] = i % kVocab;
      settings_[i].logits_row = i;
      settings_[i].seed = 5 + i;
      settings_[i].temperature = i % 2 == 0 ? 0.0f : 1.0f;
    }
  }

  // In `parts` Sample ops.
  std::vector<SampledToken> Run(int parts = 1) {
    ++position_;
    for (SampleRow& row : settings_) row.counter = position_;
    const StepKey key{.num_tokens = rows_, .num_sequences = rows_, .num_logits_rows = rows_};
    backend_->RunStep(key, [&] { Ops(parts); });
    status_ = backend_->Synchronize();
    return out_;
  }

  std::vector<int32_t>& ids() { return ids_; }
  std::vector<SampleRow>& settings() { return settings_; }
  const absl::Status& status() const { return status_; }
  int bodies() const { return bodies_; }
  void WaitInSteps() { waits_ = true; }  // which no capture may contain
  Backend& backend() { return *backend_; }

 private:
  Tensor View(const DeviceBuffer& memory, int32_t cols, DType dtype) const {
    Tensor view;
    view.data = memory.data();
    view.rows = rows_;
    view.cols = view.stride = cols;
    view.dtype = dtype;
    return view;
  }

  void Ops(int parts) {
    ++bodies_;
    backend_->CopyToDevice(device_ids_.data(), ids_.data(), int64_t{rows_} * 4);
    EmbedParams embed;
    embed.table = table_.get();
    embed.ids = static_cast<const int32_t*>(device_ids_.data());
    embed.drawn = static_cast<const int32_t*>(drawn_.data());
    embed.out = View(hidden_, kHidden, DType::kF16);
    backend_->Embed(embed);
    const PackedMatrix* const head = head_.get();
    LinearParams linear;
    linear.x = embed.out;
    linear.weights = absl::MakeConstSpan(&head, 1);
    linear.y = View(logits_, kVocab, DType::kF32);
    backend_->Linear(linear);
    if (waits_) {
      float logit = 0;
      backend_->CopyToHost(&logit, logits_.data(), sizeof logit);
    }
    for (int part = 0; part < parts; ++part) {
      const int32_t first = rows_ * part / parts, end = rows_ * (part + 1) / parts;
      SampleParams sample;
      sample.logits = linear.y;
      sample.rows = absl::MakeConstSpan(settings_).subspan(first, end - first);
      sample.out = &out_[first];
      sample.drawn = static_cast<int32_t*>(drawn_.data()) + first;
      backend_->Sample(sample);
    }
  }

  const int32_t rows_;
  std::vector<int32_t> ids_;
  std::vector<SampleRow> settings_;
  std::vector<SampledToken> out_;
  uint64_t position_ = 0;
  int bodies_ = 0;
  bool waits_ = false;
  absl::Status status_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<PackedMatrix> table_, head_;
  DeviceBuffer device_ids_, drawn_, hidden_, logits_;
};

void ExpectSame(const std::vector<SampledToken>& got, const std::vector<SampledToken>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(got[i].id, expected[i].id);
    EXPECT_EQ(got[i].logprob, expected[i].logprob);
    ASSERT_EQ(got[i].top.size(), expected[i].top.size());
    for (size_t n = 0; n < got[i].top.size(); ++n) {
      EXPECT_EQ(got[i].top[n].id, expected[i].top[n].id);
      EXPECT_EQ(got[i].top[n].logprob, expected[i].top[n].logprob);
    }
  }
}

std::vector<int32_t> IdsOf(const std::vector<SampledToken>& tokens) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

TEST(StepGraphs, AReplayIsOneLaunchBetweenTwoCopies) {
  TinyStep replayed(true, 3);
  for (int step = 0; step < 5; ++step) {
    TheGpu().ResetCounts();
    replayed.Run();
    ASSERT_TRUE(replayed.status().ok()) << replayed.status() << TheGpu().TakeFault();
    const emulator::Counts& counts = TheGpu().counts();
    // The embedding, the head as 16-bit rows, and the draw's four; the GEMM is the host's here.
    EXPECT_EQ(counts.launches, 6u);
    if (step == 0) continue;
    EXPECT_EQ(counts.copies_to_device, 1u);
    EXPECT_EQ(counts.copies_to_host, 1u);
    EXPECT_EQ(counts.graph_launches, 1u);
    EXPECT_EQ(counts.host_launches, 0u);
  }
  EXPECT_EQ(replayed.bodies(), 2) << "once to load its kernels, once to be captured";
}

TEST(StepGraphs, WhatChangesBetweenReplaysIsTaken) {
  TinyStep replayed(true, 4), direct(false, 4);
  const std::vector<TokenCount> seen = {{3, 1, 2}, {7, 0, 1}, {9, 2, 0}};
  const std::vector<LogitBias> bias = {{11, 30.0f}};
  const std::vector<int32_t> allowed = {4, 5, 6};
  for (int step = 0; step < 6; ++step) {
    for (TinyStep* one : {&replayed, &direct}) {
      for (int32_t& id : one->ids()) id = (id * 7 + step) % kVocab;
      one->settings()[0].num_logprobs = step % 2 == 0 ? 3 : -1;
      one->settings()[1].seen = absl::MakeConstSpan(seen).first(step % 4);
      one->settings()[1].repetition_penalty = 1.5f;
      one->settings()[2].bias = absl::MakeConstSpan(bias).first(step % 2);
      one->settings()[3].allowed = absl::MakeConstSpan(allowed).first(step / 2);
      one->settings()[3].score_id = step == 5 ? 17 : -1;
      one->settings()[3].num_logprobs = step == 5 ? 0 : -1;
    }
    SCOPED_TRACE(step);
    ExpectSame(replayed.Run(), direct.Run());
    EXPECT_TRUE(replayed.status().ok()) << replayed.status() << TheGpu().TakeFault();
  }
  EXPECT_EQ(replayed.bodies(), 2);
}

TEST(StepGraphs, ADrawnTokenIsTheNextStepsIdWithoutTheHost) {
  TinyStep on_device(true, 3), by_host(false, 3);
  std::vector<int32_t> ids = {10, 20, 30};
  on_device.ids() = ids;
  for (int step = 0; step < 5; ++step) {
    by_host.ids() = ids;
    const std::vector<int32_t> expected = IdsOf(by_host.Run());
    EXPECT_EQ(IdsOf(on_device.Run()), expected) << step;
    // The sequences change places: row i goes on with what row (i + 1) % 3 drew.
    on_device.ids() = {-2, -3, -1};
    ids = {expected[1], expected[2], expected[0]};
  }
}

TEST(StepGraphs, SeveralDrawsAreOneStep) {
  TinyStep replayed(true, 9), direct(false, 9);
  for (int step = 0; step < 3; ++step) {
    TheGpu().ResetCounts();
    const std::vector<SampledToken> got = replayed.Run(/*parts=*/4);
    EXPECT_EQ(TheGpu().counts().copies_to_host, step == 0 ? 4u : 1u);
    ExpectSame(got, direct.Run());
  }
}

TEST(StepGraphs, ASmallWorkspaceDrawsInSeveralLaunches) {
  // Room to draw 34 rows at once, beside what the head needs.
  const int64_t room =
      Workspace::kCounterBytes + Workspace::kAlignment + 34 * SampleScratchBytes(kVocab);
  TinyStep small(true, 100, room), large(true, 100, 4 * room);
  ExpectSame(small.Run(), large.Run());
  TheGpu().ResetCounts();
  const std::vector<SampledToken> expected = large.Run();
  const uint64_t launches = TheGpu().counts().launches;
  TheGpu().ResetCounts();
  ExpectSame(small.Run(), expected);
  EXPECT_EQ(TheGpu().counts().launches, launches + 2 * 4) << "three draws in place of one";
  EXPECT_TRUE(small.status().ok()) << small.status() << TheGpu().TakeFault();
}

TEST(StepGraphs, WhatDoesNotFitRunsOpByOp) {
  TinyStep step(true, 2), direct(false, 2);
  for (int i = 0; i < 2; ++i) ExpectSame(step.Run(), direct.Run());
  const int captured = step.bodies();
  for (TinyStep* one : {&step, &direct}) one->settings()[1].num_logprobs = 21;
  ExpectSame(step.Run(), direct.Run());
  EXPECT_EQ(step.bodies(), captured + 1) << "more log probabilities than a replay brings";
  // The lists of one row alone fill the input.
  const std::vector<int32_t> forbidden(StepGraphs::kInputBytes / 4, 3);
  for (TinyStep* one : {&step, &direct}) {
    one->settings()[1].num_logprobs = -1;
    one->settings()[0].forbidden = forbidden;
  }
  ExpectSame(step.Run(), direct.Run());
  EXPECT_EQ(step.bodies(), captured + 2);
  for (TinyStep* one : {&step, &direct}) one->settings()[0].forbidden = {};
  ExpectSame(step.Run(), direct.Run());
  EXPECT_EQ(step.bodies(), captured + 2) << "and the graph goes on";
}

TEST(StepGraphs, WhatCannotBeCapturedRunsOpByOp) {
  TinyStep step(true, 2), direct(false, 2);
  step.WaitInSteps();
  for (int i = 0; i < 4; ++i) {
    ExpectSame(step.Run(), direct.Run());
    EXPECT_TRUE(step.status().ok()) << step.status() << TheGpu().TakeFault();
  }
  EXPECT_EQ(step.bodies(), 5) << "twice where the capture was tried";
}

TEST(StepGraphs, MoreRowsThanResultsHaveRoomForAreNoGraph) {
  TinyStep step(true, StepGraphs::kMostRows + 1);
  for (SampleRow& row : step.settings()) row.temperature = 0;
  for (int i = 0; i < 3; ++i) step.Run();
  EXPECT_EQ(step.bodies(), 3);
  EXPECT_TRUE(step.status().ok()) << step.status();
}

TEST(StepGraphs, ARowThatNothingCanBeDrawnFromIsAFaultOfItsStep) {
  TinyStep step(true, 2);
  for (int i = 0; i < 3; ++i) step.Run();
  const std::vector<int32_t> allowed = {4}, forbidden = {4};
  step.settings()[1].allowed = allowed;
  step.settings()[1].forbidden = forbidden;
  step.Run();
  EXPECT_THAT(std::string(step.status().message()),
              HasSubstr("op 'sample' on cuda:0: logits row 1 has no finite maximum"));
  step.settings()[1].forbidden = {};
  EXPECT_EQ(step.Run()[1].id, 4);
  EXPECT_TRUE(step.status().ok());
}

TEST(StepGraphs, KeysBeyondTheLastGraphRunOpByOp) {
  TinyStep step(true, 1);
  int bodies = 0;
  for (int round = 0; round < 3; ++round) {
    for (int32_t n = 1; n <= static_cast<int32_t>(StepGraphs::kMaxGraphs) + 2; ++n) {
      step.backend().RunStep({.num_tokens = n, .num_sequences = n}, [&] { ++bodies; });
    }
  }
  EXPECT_EQ(bodies, 2 * static_cast<int>(StepGraphs::kMaxGraphs) + 3 * 2);
}

}  // namespace
}  // namespace nibble::cuda
