#include "engine/eval/choices.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/batch.h"
#include "kernels/check.h"

namespace nibble {
namespace {

absl::Status CheckChoice(const Choice& choice, const RunnerLimits& limits) {
  const auto size = static_cast<int64_t>(choice.ids.size());
  if (size > limits.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("has ", size, " tokens, the context holds ",
                                                   limits.max_context, "; take a larger window"));
  }
  if (choice.first_scored < 1 || choice.first_scored >= size || choice.num_characters < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("has an ending of no token, or no context: ", size,
                     " tokens, the ending from ", choice.first_scored, " on"));
  }
  for (int32_t id : choice.ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("has token ", id, ", the vocabulary has ", limits.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckQuestion(const ChoiceQuestion& question, const RunnerLimits& limits) {
  const auto num_choices = static_cast<int32_t>(question.choices.size());
  if (num_choices < 2 || question.answer < 0 || question.answer >= num_choices) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", num_choices, " choices and answer ", question.answer));
  }
  for (int32_t i = 0; i < num_choices; ++i) {
    const absl::Status status = CheckChoice(question.choices[i], limits);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("choice ", i + 1, " ", status.message()));
    }
  }
  return absl::OkStatus();
}

// A choice on its way through the runner.
struct Running {
  const Choice* choice = nullptr;
  double* logprob = nullptr;  // of its ending, when all of it is computed
  int32_t num_computed = 0;
};

class Scoring {
 public:
  explicit Scoring(ModelRunner& runner) : runner_(runner), limits_(runner.limits()) {
    blocks_ = (limits_.max_context + limits_.block_size - 1) / limits_.block_size;
    const int32_t slots = std::min(limits_.max_sequences, limits_.num_blocks / blocks_);
    NIBBLE_CHECK(slots >= 1);  // the cache holds a sequence of max_context tokens
    running_.resize(slots);
    tables_.resize(slots);
    for (int32_t slot = 0; slot < slots; ++slot) {
      for (int32_t b = 0; b < blocks_; ++b) tables_[slot].push_back(slot * blocks_ + b);
    }
  }

  // Runs all choices to their end, in order.
  absl::Status Run(std::vector<Running> waiting) {
    std::reverse(waiting.begin(), waiting.end());
    for (;;) {
      for (Running& slot : running_) {
        if (slot.choice != nullptr || waiting.empty()) continue;
        slot = waiting.back();
        waiting.pop_back();
      }
      std::vector<Running*> rows;
      const Batch batch = NextBatch(rows);
      if (rows.empty()) return absl::OkStatus();
      NIBBLE_ASSIGN_OR_RETURN(const StepResult result, runner_.Run(batch));
      NIBBLE_CHECK(result.rows.size() == rows.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        for (const Logprob& token : result.rows[i].prompt_logprobs) {
          *rows[i]->logprob += token.logprob;
        }
        const auto size = static_cast<int32_t>(rows[i]->choice->ids.size());
        if (rows[i]->num_computed == size) *rows[i] = Running();
      }
    }
  }

 private:
  Batch NextBatch(std::vector<Running*>& rows) {
    Batch batch;
    for (size_t slot = 0; slot < running_.size(); ++slot) {
      Running& running = running_[slot];
      if (running.choice == nullptr) continue;
      const std::vector<int32_t>& ids = running.choice->ids;
      BatchRow row;
      row.sequence_id = slot;
      row.tokens = ids;
      row.prompt_length = static_cast<int32_t>(ids.size());
      row.num_computed = running.num_computed;
      row.num_scheduled = std::min(row.prompt_length - running.num_computed,
                                   limits_.max_batch_tokens - batch.num_tokens);
      if (row.num_scheduled <= 0) continue;
      row.block_table = tables_[slot];
      row.sampling = &sampling_;
      row.prompt_logprobs = 0;
      row.prompt_scored = std::max(running.choice->first_scored - 1, running.num_computed);
      running.num_computed += row.num_scheduled;
      batch.num_tokens += row.num_scheduled;
      batch.rows.push_back(row);
      rows.push_back(&running);
    }
    return batch;
  }

  ModelRunner& runner_;
  const RunnerLimits limits_;
  const SamplingParams sampling_;
  int32_t blocks_ = 0;  // of one choice
  std::vector<Running> running_;
  std::vector<std::vector<int32_t>> tables_;
};

Estimate Share(int64_t right, int64_t all) {
  const double share = static_cast<double>(right) / static_cast<double>(all);
  if (all < 2) return {share, 0};
  return {share, std::sqrt(share * (1 - share) / static_cast<double>(all - 1))};
}

// Which choice has the largest value(i).
template <typename Value>
bool IsBest(const ChoiceQuestion& question, Value value) {
  size_t best = 0;
  for (size_t i = 1; i < question.choices.size(); ++i) {
    if (value(i) > value(best)) best = i;
  }
  return static_cast<int32_t>(best) == question.answer;
}

}  // namespace

absl::StatusOr<ChoicesResult> EvaluateChoices(ModelRunner& runner,
                                              absl::Span<const ChoiceQuestion> questions,
                                              std::function<void(int64_t, int64_t)> progress) {
  constexpr size_t kAtOnce = 64;  // questions between two reports of progress
  if (questions.empty()) return absl::InvalidArgumentError("there are no questions");
  for (size_t q = 0; q < questions.size(); ++q) {
    const absl::Status status = CheckQuestion(questions[q], runner.limits());
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("question ", q + 1, " ", status.message()));
    }
  }
  Scoring scoring(runner);
  ChoicesResult result;
  int64_t right = 0, right_by_length = 0;
  for (size_t first = 0; first < questions.size(); first += kAtOnce) {
    const auto part = questions.subspan(first, kAtOnce);
    std::vector<std::vector<double>> logprobs;
    for (const ChoiceQuestion& question : part) logprobs.emplace_back(question.choices.size(), 0.0);
    std::vector<Running> waiting;
    for (size_t q = 0; q < part.size(); ++q) {
      for (size_t i = 0; i < part[q].choices.size(); ++i) {
        const Choice& choice = part[q].choices[i];
        waiting.push_back({&choice, &logprobs[q][i], 0});
        result.tokens += static_cast<int64_t>(choice.ids.size()) - choice.first_scored;
      }
    }
    NIBBLE_RETURN_IF_ERROR(scoring.Run(std::move(waiting)));
    for (size_t q = 0; q < part.size(); ++q) {
      const std::vector<double>& of = logprobs[q];
      right += IsBest(part[q], [&](size_t i) { return of[i]; }) ? 1 : 0;
      right_by_length +=
          IsBest(part[q], [&](size_t i) { return of[i] / part[q].choices[i].num_characters; }) ? 1
                                                                                               : 0;
    }
    result.questions += static_cast<int64_t>(part.size());
    if (progress) progress(result.questions, static_cast<int64_t>(questions.size()));
  }
  result.accuracy = Share(right, result.questions);
  result.accuracy_by_length = Share(right_by_length, result.questions);
  return result;
}

}  // namespace nibble
