// Cuts the attention of a step into pieces, runs them on the pool and joins decode rows that were
// split over positions. How the work is cut and who runs it changes no bit of the result
// (attention.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace nibble::cpu {

// One a backend; Run is for one thread at a time. Its buffers grow to the largest step seen, then
// stay.
class AttentionPlan {
 public:
  // `pool` and `kernels` must outlive the plan.
  AttentionPlan(ThreadPool& pool, const RowKernels& kernels);

  // REQUIRES: as AttentionParams says, block_size a power of two of at least 8.
  void Run(const AttentionParams& params);

 private:
  // A decode row whose splits are separate jobs; the job that finishes last folds them.
  struct Join {
    std::atomic<int32_t> unfinished{0};
    int32_t num_splits = 0;
    float* states = nullptr;  // [num_splits, group, RowState]
  };
  struct Job {
    AttentionPiece piece;
    float* out = nullptr;  // the first token's first head
    int32_t split = 0;     // of a join: its index
    Join* join = nullptr;  // null: all splits, in order
  };

  void AddSequence(const AttentionParams& params, int32_t sequence, bool may_split);
  void AddJoin(Job job, int32_t num_splits);
  void Reserve(const AttentionParams& params);
  static void LookAhead(Job& job, const Job& next);
  void RunJob(const Job& job, float* scratch);
  void Finish(const Job& job, const float* total) const;

  ThreadPool& pool_;
  const RowKernels& kernels_;
  AttendSplitFn attend_split_ = nullptr;  // of the cache's type
  int32_t max_joins_;
  std::unique_ptr<Join[]> joins_;
  int32_t num_joins_ = 0;
  std::vector<float> join_states_;  // allocated once; what does not fit is not split
  int64_t join_floats_used_ = 0;
  std::vector<Job> jobs_;
  std::vector<std::vector<float>> scratch_;  // one a pool thread
  int64_t out_stride_ = 0;
  int64_t work_ = 0;  // multiply-adds of the step
};

}  // namespace nibble::cpu
