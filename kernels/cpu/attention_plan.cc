#include "kernels/cpu/attention_plan.h"

#include <algorithm>

#include "kernels/check.h"

namespace nibble::cpu {
namespace {

// Below this many multiply-adds waking the pool costs more than it saves (about 10 us on one core).
constexpr int64_t kSerialWork = 1 << 17;
// 4 MiB: the splits of 8 heads of 128 at a context of 128k, twice over.
constexpr int64_t kJoinFloats = 1 << 20;
constexpr int32_t kJobsPerThread = 4;  // enough that the last one to finish is not waited for long

int32_t GroupSize(const AttentionParams& params) {
  return params.num_heads / params.cache.num_kv_heads;
}

int32_t TokensPerPiece(int32_t group) { return std::max(1, kMaxQueryRows / group); }

}  // namespace

AttentionPlan::AttentionPlan(ThreadPool& pool, const RowKernels& kernels)
    : pool_(pool),
      kernels_(kernels),
      max_joins_(kJobsPerThread * pool.size()),
      joins_(std::make_unique<Join[]>(max_joins_)),
      join_states_(pool.size() > 1 ? kJoinFloats : 0),
      scratch_(pool.size()) {}

void AttentionPlan::Run(const AttentionParams& params) {
  const KvLayer& cache = params.cache;
  NIBBLE_CHECK(params.num_heads % cache.num_kv_heads == 0);
  NIBBLE_CHECK(cache.block_size >= 8 && (cache.block_size & (cache.block_size - 1)) == 0);
  attend_split_ = kernels_.ForCache(cache.dtype).attend_split;
  Reserve(params);
  const bool may_split = pool_.size() > 1 && params.num_seqs * cache.num_kv_heads <= max_joins_;
  for (int32_t s = 0; s < params.num_seqs; ++s) AddSequence(params, s, may_split);

  if (work_ < kSerialWork || pool_.size() == 1) {
    for (size_t i = 0; i < jobs_.size(); ++i) {
      if (i + 1 < jobs_.size()) LookAhead(jobs_[i], jobs_[i + 1]);
      RunJob(jobs_[i], scratch_[0].data());
    }
    return;
  }
  std::atomic<size_t> next{0};
  pool_.Run(pool_.size(), [&](int slot) {
    float* scratch = scratch_[slot].data();
    // A job is claimed while the one before it has yet to run, which then can ask for its lines.
    for (size_t i = next++; i < jobs_.size();) {
      const size_t after = next++;
      if (after < jobs_.size()) LookAhead(jobs_[i], jobs_[after]);
      RunJob(jobs_[i], scratch);
      i = after;
    }
  });
}

void AttentionPlan::Reserve(const AttentionParams& params) {
  const int32_t group = GroupSize(params), head_dim = params.cache.head_dim;
  const int32_t rows = TokensPerPiece(group) * group;
  const int64_t floats =
      AttentionScratchFloats(rows, head_dim) + 2 * int64_t{rows} * RowState(head_dim);
  for (auto& scratch : scratch_) {
    if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(floats);
  }
  jobs_.clear();
  num_joins_ = 0;
  join_floats_used_ = 0;
  work_ = 0;
  out_stride_ = params.out.stride;
}

void AttentionPlan::AddSequence(const AttentionParams& params, int32_t sequence, bool may_split) {
  const KvLayer& cache = params.cache;
  const int32_t begin = params.cu_seqlens_q[sequence];
  const int32_t num_tokens = params.cu_seqlens_q[sequence + 1] - begin;
  const int32_t context = params.context_lens[sequence];
  const int32_t group = GroupSize(params);
  const int64_t head_bytes = KvHeadBytes(cache.dtype, cache.block_size, cache.head_dim);
  const int32_t step = TokensPerPiece(group);
  const int32_t num_splits = (context + kSplit - 1) / kSplit;
  work_ += 2 * int64_t{num_tokens} * params.num_heads * cache.head_dim * context;

  // Later pieces see more positions: the long ones first.
  for (int32_t first = (num_tokens - 1) / step * step; first >= 0; first -= step) {
    for (int32_t h = 0; h < cache.num_kv_heads; ++h) {
      const int64_t column = int64_t{h} * group * cache.head_dim;
      Job job;
      job.out = params.out.f32_row(begin + first) + column;
      AttentionPiece& piece = job.piece;
      piece.q = params.q.f32_row(begin + first) + column;
      piece.q_stride = params.q.stride;
      piece.num_tokens = std::min(step, num_tokens - first);
      piece.group = group;
      piece.head_dim = cache.head_dim;
      piece.first_position = context - num_tokens + first;
      piece.end_position = piece.first_position + piece.num_tokens;
      piece.k = static_cast<const uint8_t*>(cache.k) + h * head_bytes;
      piece.v = static_cast<const uint8_t*>(cache.v) + h * head_bytes;
      piece.block_bytes = cache.num_kv_heads * head_bytes;
      piece.block_size = cache.block_size;
      piece.block_table = params.block_table + int64_t{sequence} * params.max_blocks;
      piece.scale = params.scale;
      if (may_split && num_tokens == 1 && num_splits > 1) {
        AddJoin(job, num_splits);
      } else {
        jobs_.push_back(job);
      }
    }
  }
}

void AttentionPlan::AddJoin(Job job, int32_t num_splits) {
  const int64_t floats = int64_t{num_splits} * job.piece.group * RowState(job.piece.head_dim);
  if (num_joins_ < max_joins_ && join_floats_used_ + floats <= kJoinFloats) {
    job.join = &joins_[num_joins_++];
    job.join->num_splits = num_splits;
    job.join->unfinished.store(num_splits, std::memory_order_relaxed);
    job.join->states = join_states_.data() + join_floats_used_;
    join_floats_used_ += floats;
    const int32_t context = job.piece.end_position;
    for (job.split = 0; job.split < num_splits; ++job.split) {
      job.piece.end_position = std::min(context, (job.split + 1) * kSplit);
      jobs_.push_back(job);
    }
    return;
  }
  jobs_.push_back(job);
}

void AttentionPlan::LookAhead(Job& job, const Job& next) {
  job.piece.ahead = &next.piece;
  job.piece.ahead_position = next.split * kSplit;
}

void AttentionPlan::RunJob(const Job& job, float* scratch) {
  const AttentionPiece& piece = job.piece;
  const int32_t rows = piece.num_tokens * piece.group;
  const int64_t floats = int64_t{rows} * RowState(piece.head_dim);
  float* total = scratch + AttentionScratchFloats(rows, piece.head_dim);
  float* state = total + floats;

  if (job.join == nullptr) {
    attend_split_(piece, 0, scratch, total);
    const int32_t seen = piece.first_position + piece.num_tokens;
    for (int32_t split = kSplit; split < seen; split += kSplit) {
      attend_split_(piece, split, scratch, state);
      kernels_.fold_split(rows, piece.head_dim, state, total);
    }
    Finish(job, total);
    return;
  }
  Join& join = *job.join;
  attend_split_(piece, job.split * kSplit, scratch, join.states + job.split * floats);
  if (join.unfinished.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  for (int32_t split = 1; split < join.num_splits; ++split) {
    kernels_.fold_split(rows, piece.head_dim, join.states + split * floats, join.states);
  }
  Finish(job, join.states);
}

void AttentionPlan::Finish(const Job& job, const float* total) const {
  const AttentionPiece& piece = job.piece;
  for (int32_t r = 0; r < piece.num_tokens * piece.group; ++r) {
    const float* row = total + int64_t{r} * RowState(piece.head_dim);
    float* out = job.out + r / piece.group * out_stride_ + r % piece.group * piece.head_dim;
    kernels_.weighted_mean(piece.head_dim, row, out);
  }
}

}  // namespace nibble::cpu
