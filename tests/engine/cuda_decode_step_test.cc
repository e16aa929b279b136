// What a decode step of a whole model asks of the emulated device: copies and launches, counted;
// and a model on a device that is just large enough for it, or a byte too small.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "emulator/gpu.h"
#include "engine/model/device_runner.h"
#include "engine/model_file.h"
#include "tests/engine/quantized_file.h"

namespace nibble {
namespace {

using emulator::TheGpu;
using testing::HasSubstr;

// A model on the emulated device, and sequences that it continues.
class Running {
 public:
  explicit Running(const std::string& path, bool graphs = true)
      : file_(ModelFile::Open(path).value()), config_(file_->Config().value()) {
    cuda_.workspace_bytes = int64_t{8} << 20;
    cuda_.graphs = graphs;
    options_.max_context = 64;
    options_.kv_cache_bytes = 1 << 20;
    options_.block_size = 16;
    options_.max_batch_tokens = 16;
    options_.max_sequences = 4;
  }

  absl::Status Load() {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(cuda_);
    if (!backend.ok()) return backend.status();
    backend_ = *std::move(backend);
    const std::unique_ptr<WeightSource> source = file_->Source(config_);
    absl::StatusOr<std::unique_ptr<DeviceRunner>> runner =
        DeviceRunner::Create(*backend_, config_, *source, options_, nullptr);
    if (!runner.ok()) return runner.status();
    runner_ = *std::move(runner);
    return absl::OkStatus();
  }

  void Start(std::vector<int32_t> prompt) {
    Sequence sequence;
    sequence.prompt_length = static_cast<int32_t>(prompt.size());
    sequence.tokens = std::move(prompt);
    sequence.blocks.resize(4);
    std::iota(sequence.blocks.begin(), sequence.blocks.end(),
              4 * static_cast<int32_t>(sequences_.size()));
    sequences_.push_back(sequence);
  }

  SamplingParams& sampling() { return sampling_; }

  // All that is known of each sequence, and a token more.
  absl::Status Step() {
    Batch batch;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& sequence = sequences_[i];
      BatchRow row;
      row.sequence_id = 100 + i;
      row.tokens = sequence.tokens;
      row.prompt_length = sequence.prompt_length;
      row.num_computed = sequence.computed;
      row.num_scheduled = static_cast<int32_t>(sequence.tokens.size()) - sequence.computed;
      row.block_table = sequence.blocks;
      row.sampling = &sampling_;
      row.sample = true;
      batch.num_tokens += row.num_scheduled;
      batch.rows.push_back(row);
    }
    const absl::StatusOr<StepResult> result = runner_->Run(batch);
    if (!result.ok()) return result.status();
    for (size_t i = 0; i < sequences_.size(); ++i) {
      sequences_[i].computed = static_cast<int32_t>(sequences_[i].tokens.size());
      sequences_[i].tokens.push_back(result->rows[i].sampled->id);
    }
    return absl::OkStatus();
  }
  const std::vector<int32_t>& tokens(size_t i) const { return sequences_[i].tokens; }

 private:
  struct Sequence {
    std::vector<int32_t> tokens, blocks;
    int32_t prompt_length = 0, computed = 0;
  };

  std::unique_ptr<ModelFile> file_;
  ModelConfig config_;
  CudaOptions cuda_;
  RunnerOptions options_;
  SamplingParams sampling_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<DeviceRunner> runner_;
  std::vector<Sequence> sequences_;
};

void StartTwo(Running& model) {
  model.sampling().seed = 3;
  ASSERT_TRUE(model.Load().ok());
  model.Start({5, 6, 7});
  model.Start({200, 9});
}

TEST(CudaDecodeStep, IsOneLaunchBetweenTwoCopies) {
  const QuantizedFile file("q4_1");
  Running replayed(file.path()), direct(file.path(), /*graphs=*/false);
  StartTwo(replayed);
  StartTwo(direct);
  for (int step = 0; step < 5; ++step) {
    TheGpu().ResetCounts();
    ASSERT_TRUE(replayed.Step().ok()) << TheGpu().TakeFault();
    const emulator::Counts with = TheGpu().counts();
    TheGpu().ResetCounts();
    ASSERT_TRUE(direct.Step().ok()) << TheGpu().TakeFault();
    const emulator::Counts without = TheGpu().counts();
    EXPECT_EQ(with.launches, without.launches);
    if (step < 2) continue;  // the prompt, and the step that loads the kernels
    EXPECT_EQ(with.copies_to_device, 1u);
    EXPECT_EQ(with.copies_to_host, 1u);
    EXPECT_EQ(with.graph_launches, 1u);
    EXPECT_EQ(with.host_launches, 0u) << "all in the graph";
    if (step < 4) continue;
    for (const auto& [name, counts] : {std::pair("graph", with), std::pair("op by op", without)}) {
      std::printf("a decode step, %s: %d to the device, %d to the host, %d graphs, %d launches\n",
                  name, static_cast<int>(counts.copies_to_device),
                  static_cast<int>(counts.copies_to_host), static_cast<int>(counts.graph_launches),
                  static_cast<int>(counts.host_launches));
    }
  }
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(replayed.tokens(i), direct.tokens(i));
}

// The sums in the plan's refusal: what is needed, and what is free.
int64_t NumberBefore(const std::string& message, const std::string& words) {
  const size_t end = message.find(words), begin = message.rfind(' ', end - 1) + 1;
  int64_t number = -1;
  EXPECT_TRUE(absl::SimpleAtoi(message.substr(begin, end - begin), &number)) << message;
  return number;
}

class CudaSmallDevice : public testing::TestWithParam<std::string> {
 protected:
  ~CudaSmallDevice() override { TheGpu().memory().SetLimit(0); }
};

TEST_P(CudaSmallDevice, IsRefusedWithTheSumsOrNeverExceeded) {
  const QuantizedFile file(GetParam());
  const size_t before = TheGpu().memory().live_bytes();
  // Room for the workspace alone.
  size_t limit = before + (int64_t{12} << 20);
  TheGpu().memory().SetLimit(limit);
  int64_t missing = 0;
  {
    const absl::Status status = Running(file.path()).Load();
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(" + KV cache 1048576 + activations "));
    EXPECT_THAT(message, HasSubstr(" + graphs 67108864 = "));
    EXPECT_THAT(message, HasSubstr("(held: steps 1310720, workspace 8388608)"));
    missing = NumberBefore(message, " bytes needed") - NumberBefore(message, " free of");
  }
  EXPECT_EQ(TheGpu().memory().live_bytes(), before) << "a refusal leaves nothing behind";
  TheGpu().memory().SetLimit(limit + missing - 1);
  EXPECT_TRUE(absl::IsResourceExhausted(Running(file.path()).Load()));

  limit += missing;
  TheGpu().memory().SetLimit(limit);
  Running model(file.path());
  ASSERT_TRUE(model.Load().ok());
  model.Start({5, 6, 7});
  for (int step = 0; step < 4; ++step) ASSERT_TRUE(model.Step().ok());
  // Everything but the graphs, whose memory a device takes by itself.
  const auto live = static_cast<int64_t>(TheGpu().memory().live_bytes());
  const int64_t left = static_cast<int64_t>(limit) - live - (int64_t{64} << 20);
  EXPECT_GE(left, 0);
  EXPECT_LT(left, int64_t{64} << 10) << "what is left of the cache below a block";
  std::printf("%s: %d bytes planned for and not taken\n", GetParam().c_str(),
              static_cast<int>(left));
}

INSTANTIATE_TEST_SUITE_P(EachMix, CudaSmallDevice,
                         testing::Values("q4_0", "q4_1", "q4_k_m", "q8_0", "f16"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace nibble
