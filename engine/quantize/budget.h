// Which type each tensor should get, when all of them together may have so many bytes.
//
// Damage is told for each tensor by itself and added up, which is what small errors do: the
// divergence they cause is nearly the sum of theirs. Choosing is then a knapsack with one choice a
// tensor. Each tensor's choices are cut down to the lower convex hull of damage over bytes, all
// tensors begin at their smallest, and the step that saves most damage a byte is taken until none
// fits: the best there is at every budget at which it stops by itself, and never worse than that
// by more than one step (Sinha and Zoltners 1979, "The multiple-choice knapsack problem").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

struct TypeChoice {
  GgmlType type = GgmlType::kF16;
  int64_t bytes = 0;
  double damage = 0;  // to the model when only this tensor is of this type; any unit
};

struct TensorChoices {
  std::string name;
  std::vector<TypeChoice> choices;
};

// For each tensor, which of its choices. INVALID_ARGUMENT names the budget and the least bytes
// that the tensors can have, or the tensor that has no choice or one whose damage is no number.
absl::StatusOr<std::vector<size_t>> SpendBudget(absl::Span<const TensorChoices> tensors,
                                                int64_t budget_bytes);

}  // namespace nibble
