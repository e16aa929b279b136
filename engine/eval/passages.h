// Many texts through a runner for the sake of their likelihood: what perplexity and multiple choice
// have in common.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/model/model_runner.h"

namespace nibble {

// A text that runs from an empty cache.
struct Passage {
  std::vector<int32_t> ids;
  int32_t first_scored = 1;  // positions from here on are targets; 1 .. ids.size() - 1
};

// Of the natural log p of a passage's targets, summed in the passage's order: the same bits however
// steps are cut.
struct PassageScore {
  double sum = 0;
  double squares = 0;  // sum of squares
};

// Runs passages 0 .. count - 1, each made by `passage` when its turn comes, as many at a time as a
// step and the cache hold; `scored` hears of each when it is done, in no order.
// REQUIRES passages of at most `longest` <= limits().max_context ids of the vocabulary.
// The runner's own error ends it.
absl::Status ScorePassages(ModelRunner& runner, int32_t longest, int64_t count,
                           absl::FunctionRef<Passage(int64_t index)> passage,
                           absl::FunctionRef<void(int64_t index, PassageScore)> scored);

}  // namespace nibble
