// `nibble quantize --byte-budget` and `--sensitivity`: how much every tensor's precision matters to
// this model, and the types that lose least within so many bytes.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cli/interrupt.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"
#include "engine/quantize/budget.h"
#include "engine/quantize/importance.h"
#include "engine/quantize/recipe.h"

namespace nibble {

// Whether tensors have to be measured.
bool MeasuresTensors(const QuantizeFlags& flags);

// INVALID_ARGUMENT names a flag that is wrong. Reads nothing.
absl::Status CheckBudgetFlags(const QuantizeFlags& flags);

// The damage of each tensor that `recipes` may quantize and no --tensor-type names: the mean KL
// divergence, nats a token, of the model with it alone at a type, on the first --budget-windows of
// the calibration text. Costs a run of these windows a tensor, the memory of the model, and
// meanwhile a file beside the output (in the temporary folder where there is none) of 2 bytes a
// word of the vocabulary and scored token: what the model itself says (engine/eval/base_file.h).
// INVALID_ARGUMENT, before any work, where there is no such tensor; CANCELLED after Ctrl-C; errors
// of loading, of the text, of the file, and of MeasureSensitivity.
absl::StatusOr<std::vector<TensorChoices>> MeasureTensors(const QuantizeFlags& flags,
                                                          absl::Span<const TensorRecipe> recipes,
                                                          const Importance* importance,
                                                          Interrupt& interrupt, const Io& io);

// One override a tensor measured: together with the tensors that are not, at most --byte-budget.
// INVALID_ARGUMENT names the least bytes it can be.
absl::StatusOr<std::vector<TypeOverride>> OverridesWithin(const QuantizeFlags& flags,
                                                          absl::Span<const TensorRecipe> recipes,
                                                          absl::Span<const TensorChoices> measured);

}  // namespace nibble
