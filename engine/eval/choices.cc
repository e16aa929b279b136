#include "engine/eval/choices.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/eval/passages.h"

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

// Every choice of every question, in order.
struct ChoiceAt {
  size_t question, choice;
};
std::vector<ChoiceAt> AllChoices(absl::Span<const ChoiceQuestion> questions) {
  std::vector<ChoiceAt> all;
  for (size_t q = 0; q < questions.size(); ++q) {
    for (size_t i = 0; i < questions[q].choices.size(); ++i) all.push_back({q, i});
  }
  return all;
}

int32_t Longest(absl::Span<const ChoiceQuestion> questions) {
  size_t longest = 0;
  for (const ChoiceQuestion& question : questions) {
    for (const Choice& choice : question.choices) longest = std::max(longest, choice.ids.size());
  }
  return static_cast<int32_t>(longest);
}

// A question's choices as they come in.
struct Answer {
  std::vector<double> logprobs;
  size_t missing = 0;
};

}  // namespace

absl::StatusOr<ChoicesResult> EvaluateChoices(ModelRunner& runner,
                                              absl::Span<const ChoiceQuestion> questions,
                                              std::function<void(int64_t, int64_t)> progress) {
  if (questions.empty()) return absl::InvalidArgumentError("there are no questions");
  for (size_t q = 0; q < questions.size(); ++q) {
    const absl::Status status = CheckQuestion(questions[q], runner.limits());
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("question ", q + 1, " ", status.message()));
    }
  }
  ChoicesResult result;
  std::vector<Answer> answers;
  for (const ChoiceQuestion& question : questions) {
    answers.push_back({std::vector<double>(question.choices.size()), question.choices.size()});
  }
  int64_t right = 0, right_by_length = 0;
  const std::vector<ChoiceAt> all = AllChoices(questions);
  const auto passage = [&](int64_t index) {
    const Choice& choice = questions[all[index].question].choices[all[index].choice];
    result.tokens += static_cast<int64_t>(choice.ids.size()) - choice.first_scored;
    return Passage{choice.ids, choice.first_scored};
  };
  const auto scored = [&](int64_t index, PassageScore score) {
    Answer& answer = answers[all[index].question];
    answer.logprobs[all[index].choice] = score.sum;
    if (--answer.missing > 0) return;
    const ChoiceQuestion& question = questions[all[index].question];
    const auto sum = [&](size_t i) { return answer.logprobs[i]; };
    right += IsBest(question, sum) ? 1 : 0;
    right_by_length +=
        IsBest(question, [&](size_t i) { return sum(i) / question.choices[i].num_characters; }) ? 1
                                                                                                : 0;
    if (progress) progress(++result.questions, static_cast<int64_t>(questions.size()));
  };
  NIBBLE_RETURN_IF_ERROR(
      ScorePassages(runner, Longest(questions), static_cast<int64_t>(all.size()), passage, scored));
  result.questions = static_cast<int64_t>(questions.size());
  result.accuracy = Share(right, result.questions);
  result.accuracy_by_length = Share(right_by_length, result.questions);
  return result;
}

}  // namespace nibble
