#include "engine/eval/passages.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"
#include "engine/batch.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// One place in the cache, and the passage that has it.
struct Slot {
  std::vector<int32_t> block_table;
  int64_t index = -1;  // -1: free
  Passage passage;
  PassageScore score;
  int32_t num_computed = 0;
};

std::vector<Slot> MakeSlots(const RunnerLimits& limits, int32_t longest) {
  const int32_t blocks = (longest + limits.block_size - 1) / limits.block_size;
  const int32_t count = std::min(limits.max_sequences, limits.num_blocks / blocks);
  NIBBLE_CHECK(count >= 1);  // the cache holds a sequence of max_context tokens
  std::vector<Slot> slots(count);
  for (int32_t slot = 0; slot < count; ++slot) {
    for (int32_t b = 0; b < blocks; ++b) slots[slot].block_table.push_back(slot * blocks + b);
  }
  return slots;
}

class Feeder {
 public:
  Feeder(ModelRunner& runner, int32_t longest)
      : runner_(runner), limits_(runner.limits()), slots_(MakeSlots(limits_, longest)) {}

  void Fill(int64_t count, absl::FunctionRef<Passage(int64_t)> passage) {
    for (Slot& slot : slots_) {
      if (slot.index >= 0 || next_ >= count) continue;
      slot.index = next_;
      slot.passage = passage(next_++);
      slot.score = PassageScore();
      slot.num_computed = 0;
    }
  }

  // One step of all; false when there was nothing to run.
  absl::StatusOr<bool> Step(absl::FunctionRef<void(int64_t, PassageScore)> scored) {
    std::vector<Slot*> rows;
    const Batch batch = NextBatch(rows);
    if (rows.empty()) return false;
    NIBBLE_ASSIGN_OR_RETURN(const StepResult result, runner_.Run(batch));
    NIBBLE_CHECK(result.rows.size() == rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      Slot& slot = *rows[i];
      for (const Logprob& target : result.rows[i].prompt_logprobs) {
        const double logprob = target.logprob;
        slot.score.sum += logprob;
        slot.score.squares += logprob * logprob;
      }
      if (slot.num_computed < static_cast<int32_t>(slot.passage.ids.size())) continue;
      scored(std::exchange(slot.index, -1), slot.score);
    }
    return true;
  }

 private:
  // As many tokens as a step takes, earlier slots first.
  Batch NextBatch(std::vector<Slot*>& rows) {
    Batch batch;
    for (size_t i = 0; i < slots_.size(); ++i) {
      Slot& slot = slots_[i];
      if (slot.index < 0) continue;
      BatchRow row;
      row.sequence_id = i;
      row.tokens = slot.passage.ids;
      row.prompt_length = static_cast<int32_t>(slot.passage.ids.size());
      row.num_computed = slot.num_computed;
      row.num_scheduled = std::min(row.prompt_length - slot.num_computed,
                                   limits_.max_batch_tokens - batch.num_tokens);
      if (row.num_scheduled <= 0) break;
      row.block_table = slot.block_table;
      row.sampling = &sampling_;
      row.prompt_logprobs = 0;
      row.prompt_scored = std::max(slot.passage.first_scored - 1, slot.num_computed);
      slot.num_computed += row.num_scheduled;
      batch.num_tokens += row.num_scheduled;
      batch.rows.push_back(row);
      rows.push_back(&slot);
    }
    return batch;
  }

  ModelRunner& runner_;
  const RunnerLimits limits_;
  const SamplingParams sampling_;
  std::vector<Slot> slots_;
  int64_t next_ = 0;
};

}  // namespace

absl::Status ScorePassages(ModelRunner& runner, int32_t longest, int64_t count,
                           absl::FunctionRef<Passage(int64_t)> passage,
                           absl::FunctionRef<void(int64_t, PassageScore)> scored) {
  Feeder feeder(runner, longest);
  for (bool running = true; running;) {
    feeder.Fill(count, passage);
    NIBBLE_ASSIGN_OR_RETURN(running, feeder.Step(scored));
  }
  return absl::OkStatus();
}

}  // namespace nibble
