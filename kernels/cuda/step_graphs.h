// Steps of decode rows as graphs (Backend::RunStep): embedding, layers, head and sampling of a step
// replayed as one launch, between one copy to the device and one from it.
//
// The first step of a key runs op by op, so that its kernels are loaded and what it copies is
// counted; the second is captured. From then on a step is:
//   1. on the host, what its copies and its Sample ops read is laid side by side: the sources of
//      the copies, the rows' settings, then the rows' lists (sample_staging.h), which vary in size;
//   2. one copy to the device;
//   3. the graph: it moves each piece to where the step's ops expect it, and runs them; the
//      sampling kernel reads settings and lists where they are;
//   4. one copy of the drawn tokens to the host, with log probabilities where a row asks for them.
// A step that does not fit (lists beyond kInputBytes, more than kMostLogprobs log probabilities, a
// row of logits larger than the workspace) runs op by op; so do keys beyond kMaxGraphs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/workspace.h"

namespace nibble::cuda {

class StepGraphs {
 public:
  static constexpr size_t kMaxGraphs = 64;
  // What a graph takes on a device is not documented: this is reserved for each in the plan.
  static constexpr int64_t kGraphBytes = 1 << 20;
  static constexpr int64_t kInputBytes = Device::kStagingBytes;
  static constexpr int32_t kMostLogprobs = 20, kMostRows = 1024;  // of a step; fit kResultBytes
  static constexpr int64_t kMemoryBytes = kInputBytes + Device::kResultBytes;

  // `memory`: kMemoryBytes on the device.
  StepGraphs(Device& device, Workspace& workspace, void* memory);

  void Run(StepKey key, absl::FunctionRef<void()> step);

  // What CopyToDevice and Sample ask first. True: a step is being captured, and this is a part of
  // it from here on. False: the caller does it now.
  bool Copy(void* device, const void* host, int64_t size_bytes);
  bool Sample(const SampleParams& params);

  // After the stream was waited for: writes the results of the last replay to where its Sample ops
  // want them. A row that nothing can be drawn from is kept as a fault.
  void Deliver();

 private:
  struct Piece {
    const void* host = nullptr;
    int64_t size_bytes = 0, at = 0;  // in the input
  };
  struct Draw {
    absl::Span<const SampleRow> rows;  // (host) looked at in each replay
    SampledToken* out = nullptr;
    int64_t settings_at = 0;  // in the input
    int32_t first_row = 0;    // of the step's
  };
  struct Step {
    int64_t fixed_bytes = 0;  // of the input, before the lists
    int32_t num_rows = 0;     // that Sample ops draw or score
    bool fits = true;
    std::vector<Piece> pieces;
    std::vector<Draw> draws;
    std::unique_ptr<Graph> graph;
  };

  void Capture(Step& step, absl::FunctionRef<void()> body);
  bool Stage(const Step& step);
  void Launch(const Step& step);
  int64_t Reserve(int64_t size_bytes);
  SampleCall CallOf(const SampleParams& params, const Draw& draw) const;

  Device& device_;
  Workspace& workspace_;
  uint8_t* const input_;
  uint8_t* const results_;
  std::map<StepKey, Step> steps_;
  Step* counted_ = nullptr;   // while a key's first step runs
  Step* captured_ = nullptr;  // while its second one does
  int64_t used_ = 0;          // of the input, by the step that is captured
  std::vector<uint8_t> staged_, lists_;
  const Step* replayed_ = nullptr;  // whose results are on their way
  const uint8_t* arriving_ = nullptr;
};

}  // namespace nibble::cuda
