// How a quantized model came to be, and the keys of a GGUF file that tell it:
//
//   nibble.quantize.source_sha256       of the whole source (engine/quantize_source.h)
//   nibble.quantize.method              "ggml" (engine/quantize/ggml), or a method's name
//                                       (engine/quantize/methods/method.h)
//   nibble.quantize.type                the mix of types, "q4_k_m" (recipe.h)
//   nibble.quantize.options             what else was asked for, as flags
//   nibble.quantize.importance_sha256   only where an importance matrix was used
//   nibble.quantize.calibration_sha256  of the text that was looked at, where one was
//   nibble.quantize.tool                "nibble 0.1.0"
//   nibble.quantize.tensors             names of the tensors that changed
//   nibble.quantize.tensor_errors       of each: the root of its relative square error,
//                                       sqrt(sum (x - y)^2 / sum x^2)
//   general.file_type                   of the mix
//   general.quantization_version        2, the version of ggml's types
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/quantize/recipe.h"
#include "engine/weights/gguf_writer.h"

namespace nibble {

struct Provenance {
  std::string source_sha256;
  std::string method;
  std::string options;
  std::string importance_sha256;   // of its file, or empty
  std::string calibration_sha256;  // of the text, or empty
  std::string tool;
};

// Replaces all of these keys. Their encoded size depends on `tensors` and `provenance` alone.
// REQUIRES: an error for each of `tensors`.
void SetProvenance(const Provenance& provenance, const MixInfo& mix,
                   absl::Span<const std::string> tensors, absl::Span<const float> errors,
                   GgufKeys& keys);

}  // namespace nibble
