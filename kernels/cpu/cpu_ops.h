// The ops of kernels/ops.h on the threads of one pool: each handed to its kernel, the work split
// over the pool. The backend has one over all of its threads, and one of a single thread for each
// lane of a step (lanes.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace nibble::cpu {

// Backend::CountLayer, as an op.
struct LayerCount {
  std::atomic<int64_t>* counter = nullptr;
};

// One thread calls at a time. What the ops work in grows to the largest call seen, then stays.
class CpuOps {
 public:
  // `pool` and `kernels` (of `isa`) must outlive it.
  CpuOps(ThreadPool& pool, CpuIsa isa, CpuActivations activations, const RowKernels& kernels);

  // As ops.h says; what an op wrote is visible when Run returns.
  void Run(const EmbedParams& params);
  void Run(const RmsNormParams& params);
  void Run(const LinearParams& params);
  void Run(const RopeStoreKvParams& params);
  void Run(const AttentionParams& params);
  void Run(const GatedActivationParams& params);
  void Run(const GatherRowsParams& params);
  void Run(const SampleParams& params);
  void Run(const LayerCount& count) { count.counter->fetch_add(1, std::memory_order_relaxed); }

  // The first fault since the last call, which names its op; empty where there was none.
  std::string TakeFault();

 private:
  void ForRows(int32_t rows, int64_t cols, absl::FunctionRef<void(int32_t)> fn);

  ThreadPool& pool_;
  const CpuIsa isa_;
  const CpuActivations activations_;
  const RowKernels& kernels_;
  LinearScratch linear_scratch_;
  AttentionPlan attention_;
  std::vector<SampleScratch> sample_scratch_;  // one a part of Sample
  std::string fault_;
};

}  // namespace nibble::cpu
