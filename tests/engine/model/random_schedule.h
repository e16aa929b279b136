// What a scheduler may do to sequences, at random: any company, order and chunks; preemption;
// blocks anywhere in the cache, dirty from whoever had them, or shared with a sequence that begins
// alike.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "engine/model/logits_runner.h"
#include "kernels/check.h"

namespace nibble {

struct ScheduledSequence {
  std::vector<int32_t> ids;
  int32_t parent = -1;        // an earlier sequence with the same first ids, or -1
  int32_t shared_tokens = 0;  // how many
  int32_t passes = 1;         // how often it is computed from its beginning to its end
};

// What a run did: a test that never does the thing it is for must not pass.
struct ScheduleCoverage {
  int64_t steps = 0, chunks = 0, lone_decodes = 0, preemptions = 0, shared_blocks = 0;
  ScheduleCoverage& operator+=(const ScheduleCoverage& other) {
    steps += other.steps;
    chunks += other.chunks;
    lone_decodes += other.lone_decodes;
    preemptions += other.preemptions;
    shared_blocks += other.shared_blocks;
    return *this;
  }
};

class RandomSchedule {
 public:
  using Visit = std::function<void(int32_t sequence, int32_t position, absl::Span<const float>)>;

  RandomSchedule(LogitsRunner& runner, std::vector<ScheduledSequence> sequences, uint32_t seed)
      : runner_(runner), limits_(runner.limits()), random_(seed), users_(limits_.num_blocks) {
    free_.resize(limits_.num_blocks);
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), random_);
    for (ScheduledSequence& sequence : sequences) {
      states_.push_back({std::move(sequence), {}, 0, 0});
    }
  }

  // Leaves k and v of `id` in every block of the cache.
  absl::Status Soil(int32_t id) {
    const std::vector<int32_t> ids(limits_.max_context, id);
    const int32_t blocks = std::max(1, limits_.max_context / limits_.block_size);
    for (int32_t first = 0; first < limits_.num_blocks; first += blocks) {
      std::vector<int32_t> table(std::min(blocks, limits_.num_blocks - first));
      std::iota(table.begin(), table.end(), first);
      const int32_t n = std::min<int32_t>(static_cast<int32_t>(table.size()) * limits_.block_size,
                                          limits_.max_context);
      for (int32_t computed = 0; computed < n;) {
        Batch batch;
        batch.rows.push_back(Row(ids, computed, std::min(n - computed, limits_.max_batch_tokens)));
        batch.rows[0].block_table = table;
        batch.rows[0].prompt_scored = n;  // nobody looks
        computed += batch.rows[0].num_scheduled;
        batch.num_tokens = batch.rows[0].num_scheduled;
        const absl::Status status = runner_.RunForLogits(batch, [](auto...) {});
        if (!status.ok()) return status;
      }
    }
    return absl::OkStatus();
  }

  // Steps until every sequence has had its passes; `visit` sees every position that was computed.
  absl::Status Run(const Visit& visit) {
    while (true) {
      MaybePreempt();
      const std::vector<int32_t> chosen = Choose();
      if (chosen.empty()) return absl::OkStatus();
      Batch batch;
      std::vector<int32_t> order;
      for (int32_t s : chosen) AddRow(s, batch, order);
      ++coverage.steps;
      coverage.lone_decodes += batch.num_tokens == 1 && batch.rows[0].num_computed >= 512;
      const absl::Status status = runner_.RunForLogits(
          batch, [&](int32_t row, int32_t position, absl::Span<const float> logits) {
            visit(order[row], position, logits);
          });
      if (!status.ok()) return status;
      for (size_t i = 0; i < order.size(); ++i) Advance(order[i], batch.rows[i].num_scheduled);
    }
  }

  ScheduleCoverage coverage;

 private:
  struct State {
    ScheduledSequence sequence;
    std::vector<int32_t> blocks;
    int32_t computed = 0;
    int32_t passes_done = 0;
    bool done() const { return passes_done == sequence.passes; }
    int32_t size() const { return static_cast<int32_t>(sequence.ids.size()); }
  };

  BatchRow Row(const std::vector<int32_t>& ids, int32_t computed, int32_t scheduled) const {
    BatchRow row;
    row.tokens = ids;
    row.prompt_length = static_cast<int32_t>(ids.size());
    row.num_computed = computed;
    row.num_scheduled = scheduled;
    row.sampling = &sampling_;
    return row;
  }

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % n); }

  // Sequences of this step in the order of their rows; empty when all are done.
  std::vector<int32_t> Choose() {
    std::vector<int32_t> waiting;
    for (size_t s = 0; s < states_.size(); ++s) {
      if (!states_[s].done()) waiting.push_back(static_cast<int32_t>(s));
    }
    // Who has a prefix to borrow mostly waits until it is there.
    std::vector<int32_t> ready;
    for (int32_t s : waiting) {
      if (!HopesForPrefix(states_[s]) || Below(8) == 0) ready.push_back(s);
    }
    if (!ready.empty()) waiting = ready;
    std::shuffle(waiting.begin(), waiting.end(), random_);
    const int32_t most = static_cast<int32_t>(waiting.size());
    const int32_t chosen = Below(2) ? most : 1 + Below(std::max(most, 1));
    if (most > 0) waiting.resize(std::min(chosen, limits_.max_sequences));
    return waiting;
  }

  bool HopesForPrefix(const State& state) const {
    if (state.computed > 0 || state.sequence.parent < 0) return false;
    const State& parent = states_[state.sequence.parent];
    return !parent.done() && parent.computed < state.sequence.shared_tokens;
  }

  void AddRow(int32_t s, Batch& batch, std::vector<int32_t>& order) {
    State& state = states_[s];
    const int32_t room = limits_.max_batch_tokens - batch.num_tokens;
    if (room == 0) return;
    if (state.computed == 0 && state.blocks.empty()) BorrowPrefix(state);
    static constexpr int32_t kChunks[] = {1, 1, 1, 2, 3, 7, 8, 9, 16, 33, 64, 65, 130, 700};
    const int32_t wanted = kChunks[Below(std::size(kChunks))];
    const int32_t chunk = std::min({wanted, room, state.size() - state.computed});
    while (static_cast<int32_t>(state.blocks.size()) * limits_.block_size <
           state.computed + chunk) {
      state.blocks.push_back(TakeBlock());
    }
    BatchRow row = Row(state.sequence.ids, state.computed, chunk);
    row.block_table = state.blocks;
    batch.rows.push_back(row);
    batch.num_tokens += chunk;
    order.push_back(s);
    ++coverage.chunks;
  }

  // Full blocks of the parent's that hold the same tokens; at least one token stays to compute.
  void BorrowPrefix(State& state) {
    if (state.sequence.parent < 0 || Below(4) == 0) return;
    const State& parent = states_[state.sequence.parent];
    const int32_t tokens =
        std::min({state.sequence.shared_tokens, parent.computed, state.size() - 1});
    for (int32_t b = 0; b < tokens / limits_.block_size; ++b) {
      state.blocks.push_back(parent.blocks[b]);
      ++users_[parent.blocks[b]];
      ++coverage.shared_blocks;
    }
    state.computed = static_cast<int32_t>(state.blocks.size()) * limits_.block_size;
  }

  void Advance(int32_t s, int32_t scheduled) {
    State& state = states_[s];
    state.computed += scheduled;
    if (state.computed < state.size()) return;
    // A short one begins again while others run: company.
    const bool again = state.size() < 100 && NumUnfinished() > 1 && Below(4) != 0;
    if (!again) ++state.passes_done;
    // Its blocks stay a while in half of the cases, as in a prefix cache.
    if (!state.done() || Below(2)) Release(state);
  }

  int64_t NumUnfinished() const {
    return std::count_if(states_.begin(), states_.end(),
                         [](const State& state) { return !state.done(); });
  }

  void MaybePreempt() {
    if (Below(12) != 0) return;
    State& state = states_[Below(static_cast<int32_t>(states_.size()))];
    if (state.done() || state.computed == 0) return;
    Release(state);
    ++coverage.preemptions;
  }

  void Release(State& state) {
    for (int32_t block : state.blocks) {
      if (--users_[block] == 0) free_.push_back(block);
    }
    state.blocks.clear();
    state.computed = 0;
  }

  int32_t TakeBlock() {
    NIBBLE_CHECK(!free_.empty());
    std::swap(free_[Below(static_cast<int32_t>(free_.size()))], free_.back());
    const int32_t block = free_.back();
    free_.pop_back();
    users_[block] = 1;
    return block;
  }

  LogitsRunner& runner_;
  const RunnerLimits limits_;
  std::mt19937 random_;
  const SamplingParams sampling_;
  std::vector<State> states_;
  std::vector<int32_t> free_;
  std::vector<int32_t> users_;  // of each block
};

}  // namespace nibble
