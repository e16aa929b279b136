// Multiple choice by likelihood: of several endings of a context, the model's answer is the one it
// finds likeliest. HellaSwag (arXiv 1905.07830) and its kin, scored as EleutherAI's evaluation
// harness does it:
//   accuracy            the largest sum of log p over the ending's tokens
//   accuracy_by_length  the largest sum divided by the ending's characters: a longer ending has
//                       more tokens to be wrong in
// The first of equals wins. An error is that of a share of independent questions.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/eval/estimate.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct Choice {
  std::vector<int32_t> ids;    // context and ending
  int32_t first_scored = 1;    // where the ending begins, 1 .. ids.size() - 1
  int32_t num_characters = 1;  // of the ending
};

struct ChoiceQuestion {
  std::vector<Choice> choices;  // two or more
  int32_t answer = 0;
};

struct ChoicesResult {
  Estimate accuracy;            // share of questions, 0 to 1
  Estimate accuracy_by_length;  // the same
  int64_t questions = 0;
  int64_t tokens = 0;  // scored
};

// Each choice runs from an empty cache, as many at a time as a step and the cache hold; the results
// are the same for any number. `progress` (may be null) hears questions done and total.
// INVALID_ARGUMENT names the question (from 1) and what of it is out of range: its choices, its
// answer, its ids, more tokens than the runner's context.
absl::StatusOr<ChoicesResult> EvaluateChoices(ModelRunner& runner,
                                              absl::Span<const ChoiceQuestion> questions,
                                              std::function<void(int64_t, int64_t)> progress);

}  // namespace nibble
