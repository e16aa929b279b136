// Sample through the backend's interface, on the emulator, against the CPU backend's: rows with and
// without lists in one step, one launch or several, and the faults.
#include "kernels/cuda/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulator/gpu.h"
#include "kernels/backend.h"
#include "kernels/cuda/sample.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using testing::HasSubstr;

constexpr int32_t kVocab = 777, kLogitsRows = 3;
constexpr int64_t kCounters = Workspace::kCounterBytes;
constexpr uint64_t kLaunches = 4;  // of rows that are drawn at once

std::unique_ptr<Backend> MakeCuda(int64_t workspace_bytes) {
  CudaOptions options;
  options.workspace_bytes = workspace_bytes;
  return CreateCudaBackend(options).value();
}

std::vector<float> RandomLogits() {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> logits(size_t{kLogitsRows} * kVocab);
  for (float& x : logits) x = normal(random);
  return logits;
}

// A step's rows on a backend; what Synchronize says goes to `status`.
std::vector<SampledToken> Sample(Backend& backend, const std::vector<float>& logits,
                                 const std::vector<SampleRow>& rows, absl::Status& status) {
  const auto bytes = static_cast<int64_t>(logits.size() * sizeof(float));
  const DeviceBuffer memory = backend.Allocate(bytes, "logits").value();
  backend.CopyToDevice(memory.data(), logits.data(), bytes);
  std::vector<SampledToken> out(rows.size());
  SampleParams params;
  params.logits.data = memory.data();
  params.logits.rows = kLogitsRows;
  params.logits.cols = params.logits.stride = kVocab;
  params.logits.dtype = DType::kF32;
  params.rows = rows;
  params.out = out.data();
  backend.Sample(params);
  status = backend.Synchronize();
  return out;
}

// Rows of every kind: greedy, scored, cut, with lists, penalized.
class SamplingTest : public testing::Test {
 protected:
  SamplingTest() : rows_(7) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      rows_[i].logits_row = static_cast<int32_t>(i) % kLogitsRows;
      rows_[i].temperature = 1;
      rows_[i].seed = 77 + i;
      rows_[i].counter = 1000 * i;
    }
    rows_[0].temperature = 0;
    rows_[0].num_logprobs = 4;
    rows_[1].score_id = 321;
    rows_[1].num_logprobs = 0;
    rows_[2].top_k = 20;
    rows_[2].top_p = 0.8f;
    rows_[2].min_p = 0.01f;
    rows_[3].allowed = allowed_;
    rows_[3].forbidden = forbidden_;
    rows_[4].bias = bias_;
    rows_[4].num_logprobs = 2;
    rows_[5].seen = seen_;
    rows_[5].repetition_penalty = 1.3f;
    rows_[6].seen = seen_;
    rows_[6].bias = bias_;
    rows_[6].forbidden = forbidden_;
    rows_[6].presence_penalty = 0.5f;
    rows_[6].frequency_penalty = 1.5f;
  }

  void ExpectTheCpus(const std::vector<SampledToken>& got) {
    CpuOptions options;
    options.num_threads = 1;
    absl::Status status;
    const auto cpu = CreateCpuBackend(options).value();
    const std::vector<SampledToken> expected = Sample(*cpu, logits_, rows_, status);
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < rows_.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(got[i].id, expected[i].id);
      EXPECT_NEAR(got[i].logprob, expected[i].logprob, 1e-4);
      ASSERT_EQ(got[i].top.size(), expected[i].top.size());
      for (size_t n = 0; n < got[i].top.size(); ++n) {
        EXPECT_EQ(got[i].top[n].id, expected[i].top[n].id);
        EXPECT_NEAR(got[i].top[n].logprob, expected[i].top[n].logprob, 1e-4);
      }
    }
  }

  const std::vector<TokenCount> seen_ = {{3, 1, 0}, {5, 0, 2}, {700, 2, 3}, {776, 0, 1}};
  const std::vector<LogitBias> bias_ = {{9, 8.0f}, {11, -3.0f}, {700, 7.5f}};
  const std::vector<int32_t> allowed_ = {5, 9, 11, 300, 700, 776}, forbidden_ = {9, 400};
  std::vector<float> logits_ = RandomLogits();
  std::vector<SampleRow> rows_;
};

TEST_F(SamplingTest, DrawsAtOnceWhatTheCpuDraws) {
  const auto backend = MakeCuda(int64_t{4} << 20);
  absl::Status status;
  TheGpu().ResetCounts();
  ExpectTheCpus(Sample(*backend, logits_, rows_, status));
  EXPECT_TRUE(status.ok()) << status << TheGpu().TakeFault();
  EXPECT_EQ(TheGpu().counts().launches, kLaunches);
}

TEST_F(SamplingTest, ASmallWorkspaceTakesMoreLaunchesForTheSameTokens) {
  // Room for two rows with their settings and lists.
  const int64_t row_bytes = SampleScratchBytes(kVocab) + 400;
  const auto backend = MakeCuda(kCounters + 4 * Workspace::kAlignment + 2 * row_bytes);
  absl::Status status;
  TheGpu().ResetCounts();
  ExpectTheCpus(Sample(*backend, logits_, rows_, status));
  EXPECT_TRUE(status.ok()) << status << TheGpu().TakeFault();
  EXPECT_EQ(TheGpu().counts().launches, 4 * kLaunches);
}

TEST_F(SamplingTest, ARowThatNothingCanBeDrawnFromIsAFault) {
  const auto backend = MakeCuda(int64_t{4} << 20);
  logits_[kVocab + 5] = std::numeric_limits<float>::quiet_NaN();
  absl::Status status;
  Sample(*backend, logits_, rows_, status);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("op 'sample' on cuda:0: logits row 1 has no finite maximum"));
}

TEST_F(SamplingTest, ARowWithoutRoomIsAFault) {
  const auto backend = MakeCuda(kCounters + 4 * Workspace::kAlignment + 3000);
  absl::Status status;
  Sample(*backend, logits_, rows_, status);
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes of workspace, there are 3000"));
}

}  // namespace
}  // namespace nibble::cuda
