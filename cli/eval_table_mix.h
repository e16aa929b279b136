// A model in one of ggml's mixes of types, for a row of `nibble eval table`.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model_file.h"
#include "engine/quantize/recipe.h"

namespace nibble {

struct MixedModel {
  std::unique_ptr<ModelFile> file;  // without a name: it is gone with this
  double bits = 0;                  // a weight of the layers' matrices
};

// Quantizes the model at `path` as `nibble quantize --type` does, without importance, into a file
// in the directory for temporary ones, which must have room for it. Errors of QuantizeSource and
// QuantizeGguf, CANCELLED among them; RESOURCE_EXHAUSTED or PERMISSION_DENIED where no such file
// can be made.
absl::StatusOr<MixedModel> QuantizeToMix(const std::string& path, const MixInfo& mix,
                                         int32_t num_threads,
                                         std::function<void(int64_t, int64_t)> progress,
                                         const std::atomic<bool>& cancelled);

}  // namespace nibble
