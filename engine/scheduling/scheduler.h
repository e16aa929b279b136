// Decides, step by step, which tokens of which sequences run: continuous batching with chunked
// prefill over a paged KV cache. Owns the sequences, the blocks and the prefix cache. Knows neither
// a model nor a client; given the same calls it does the same thing.
//
// One step:  Schedule -> the batch runs -> Commit -> Remove whoever ended.
//
// Order: higher priority first, then earlier arrival. Decoding sequences get their one token first;
// what is left of the token budget goes to prompts in order, in chunks. A waiting sequence is
// admitted when blocks for all its known tokens are free and one more for every running sequence
// (so that a newcomer does not force a preemption at once), and nobody overtakes the first that
// must wait.
//
// When blocks run out, one victim gives all of its own back and computes again later: a paused one
// first, then the lowest priority, then the least computed work, then the latest arrival. The first
// unpaused running sequence is never a victim, so it always progresses and the system never
// livelocks. A waiting sequence may displace only paused ones and those of strictly lower priority.
//
// The engine thread only. Cost of a step: O(sequences), plus a hash for each block that becomes
// full.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/batch.h"
#include "engine/scheduling/block_allocator.h"
#include "engine/scheduling/prefix_cache.h"
#include "engine/scheduling/sequence.h"

namespace nibble {

struct SchedulerOptions {
  int32_t max_running = 64;        // sequences holding blocks; at most max_batch_tokens
  int32_t max_batch_tokens = 512;  // of one step
  int32_t block_size = 32;         // tokens
  int32_t num_blocks = 0;
  bool prefix_cache = true;
  Digest cache_key{};
};

struct SchedulerCounts {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t paused = 0;                // of running
  int32_t paused_waiting = 0;        // of waiting: preempted while paused
  int64_t queued_prompt_tokens = 0;  // of sequences never scheduled so far
  int32_t blocks_in_use = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  void Add(std::unique_ptr<Sequence> sequence);
  Sequence* Find(RequestId id) const;  // null: not here
  // Takes the sequence out, in whatever state; its blocks are available at once. REQUIRES it is
  // here, and not in a batch between Schedule and Commit.
  std::unique_ptr<Sequence> Remove(RequestId id);
  void Pause(RequestId id, Instant now);
  void Resume(RequestId id);  // unknown ids are ignored

  struct Plan {
    Batch batch;                     // empty: nothing can run now
    std::vector<RequestId> started;  // scheduled for the first time
    std::vector<RequestId> preempted;
    std::vector<RequestId>
        exhausted;  // too long for the whole cache; hold no blocks now: Remove them
  };
  Plan Schedule(Instant now);

  struct Progress {
    Sequence* sequence = nullptr;
    bool new_token = false;     // sequence->tokens.back() is new
    Duration since_previous{};  // token; 0 for the first
    int32_t recomputed = 0;     // tokens of this step that had been computed before
  };
  // Takes in a step's result: one Progress a row, in the batch's order. REQUIRES the batch of the
  // last Schedule.
  std::vector<Progress> Commit(const Batch& batch, const StepResult& result, Instant now);

  const std::map<RequestId, std::unique_ptr<Sequence>>& sequences() const { return sequences_; }
  SchedulerCounts counts() const;
  int32_t num_blocks() const { return allocator_.num_blocks(); }
  // INTERNAL names the first contradiction between sequences, blocks and cache. For tests, between
  // steps.
  absl::Status CheckIntegrity() const;

 private:
  using Ranked = std::set<Sequence*, GoesFirst>;

  void ScheduleDecodes(Plan& plan);
  void SchedulePrompts(Plan& plan, Instant now);
  bool IsFirstInLine(const Sequence& sequence) const;
  void Admit(Sequence& sequence, Plan& plan, Instant now);
  bool MakeRoom(Sequence& sequence, int32_t fresh, Plan& plan);
  bool HasRoom(int32_t fresh) const;
  bool Grow(Sequence& sequence, Plan& plan);
  void Exhaust(Sequence& sequence, Plan& plan);
  void Grant(Sequence& sequence, int32_t num_tokens);
  BatchRow MakeRow(const Sequence& sequence) const;

  Sequence* VictimFor(const Sequence& requester) const;
  std::vector<Sequence*> Displaceable(const Sequence& newcomer) const;
  int32_t BlocksOnlyOf(const std::vector<Sequence*>& victims) const;
  void Preempt(Sequence& sequence, Plan& plan);
  void ReleaseBlocks(Sequence& sequence);
  int32_t TakeBlock();
  void PublishFullBlocks(Sequence& sequence);
  int32_t BlocksFor(int32_t num_tokens) const;

  SchedulerOptions options_;
  BlockAllocator allocator_;
  PrefixCache cache_;
  std::map<RequestId, std::unique_ptr<Sequence>> sequences_;
  Ranked running_;
  Ranked waiting_;
  int32_t budget_ = 0;  // tokens left in the step being planned
};

}  // namespace nibble
