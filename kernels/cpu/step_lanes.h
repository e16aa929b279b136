// Runs a step in lanes: one thread takes some of the step's rows through all its layers, while
// others do the same with theirs.
//
// Op by op, a step of 30 layers has some 300 barriers, and each op fetches what the threads of the
// one before wrote: on cores that share no cache (a line takes 0.5 us there and back, measured)
// that was 15 % of a step of 32 rows, and 5 % on those that do. Lanes meet only at the step's end,
// and a lane's activations stay in its core's own caches. An op's row does not depend on the rows
// beside it (ops.h), so neither does the step's result.
//
// A row reads k and v of its sequence's earlier rows, which other lanes may have: attention waits
// until these have stored that layer's. Lanes are taken in order, so what is waited for is running.
//
// What lanes cost: each reads all weights, and a thread that the machine takes away delays its own
// lane. lane_cuts.h says when it pays; other steps, and ops that are alone, are shared out op by
// op.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/lane_cuts.h"
#include "kernels/cpu/step_ops.h"
#include "kernels/cpu/thread_pool.h"

namespace nibble::cpu {

// One thread calls at a time.
class StepLanes {
 public:
  // `pool`, `whole` (over that pool) and `kernels` must outlive it.
  StepLanes(ThreadPool& pool, CpuOps& whole, CpuIsa isa, CpuActivations activations,
            const RowKernels& kernels);

  // All ops, as if one after the other.
  void Run(absl::Span<const StepOp> ops);

 private:
  // The ops of one thread.
  struct Worker {
    Worker(CpuIsa isa, CpuActivations activations, const RowKernels& kernels)
        : ops(pool, isa, activations, kernels) {}
    ThreadPool pool{1};
    CpuOps ops;
  };

  void RunWhole(absl::Span<const StepOp> ops);
  void RunInLanes(absl::Span<const StepOp> ops, const std::vector<Lane>& lanes);

  ThreadPool& pool_;
  CpuOps& whole_;
  std::vector<std::unique_ptr<Worker>> workers_;  // one a thread of the pool
};

}  // namespace nibble::cpu
