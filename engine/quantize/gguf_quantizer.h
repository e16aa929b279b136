// From a model to a GGUF file: every tensor as a recipe says (recipe.h), the keys that are given,
// and what was done written into the file (provenance.h, method "ggml").
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/quantize/importance.h"
#include "engine/quantize/provenance.h"
#include "engine/quantize/recipe.h"
#include "engine/quantize/source_tensors.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/gguf_writer.h"

namespace nibble {

struct QuantizeOptions {
  MixInfo mix;
  std::string output;
  GgufKeys keys;  // the model's own
  Provenance provenance;
  int32_t num_threads = 1;                 // 1 or more
  const Importance* importance = nullptr;  // must outlive the call
  // Elements done and in all; one thread at a time. May be empty.
  std::function<void(int64_t done, int64_t total)> progress;
  const std::atomic<bool>* cancelled = nullptr;  // looked at between pieces
};

struct TensorOutcome {
  std::string name;
  GgmlType source = GgmlType::kF32;
  GgmlType target = GgmlType::kF32;
  int64_t num_elements = 0;
  int64_t source_bytes = 0;
  int64_t target_bytes = 0;
  double relative_error = 0;  // 0 where copied
};

struct QuantizeReport {
  std::vector<TensorOutcome> tensors;
  std::string source_sha256;
  int64_t output_bytes = 0;
};

// The output is complete or absent (partial_file.h), and the same bytes for any number of threads.
// Reads, converts and writes pieces of rows: memory is some MiB a thread, whatever the file's size.
// DATA_LOSS for a weight that is NaN or infinite or a file that became shorter; INVALID_ARGUMENT
// where the importance of a tensor has another number of columns; RESOURCE_EXHAUSTED for a full
// disk; CANCELLED. Replaces a file that is there: the caller decides whether it may.
absl::StatusOr<QuantizeReport> QuantizeGguf(const SourceTensors& source,
                                            const std::vector<TensorRecipe>& recipes,
                                            const QuantizeOptions& options);

// SHA-256 in hexadecimal of a file's bytes, read once.
absl::StatusOr<std::string> FileSha256(const std::string& path);

// Bytes of `num_elements` elements of a type.
int64_t BytesOf(GgmlType type, int64_t num_elements);

}  // namespace nibble
