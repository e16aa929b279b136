// What a quantized GGUF file tells of how it came to be, and of how good it is: the keys that
// `nibble quantize` wrote (nibble.quantize.*, listed in engine/quantize), and those that
// `nibble eval divergence --record` adds:
//
//   nibble.quantize.eval.kl                    mean KL(source || file), nats a token
//   nibble.quantize.eval.kl_standard_error
//   nibble.quantize.eval.kl_p99                its 99 % quantile
//   nibble.quantize.eval.top1_agreement        share of tokens, 0 to 1
//   nibble.quantize.eval.perplexity            of this file
//   nibble.quantize.eval.perplexity_source
//   nibble.quantize.eval.tokens                scored
//   nibble.quantize.eval.text_sha256           of the text's bytes
//   nibble.quantize.eval.protocol              windows, positions, activations and caches, in words
//
// Quantizing the file once more removes all of them: they are another file's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

struct EvaluationRecord {
  double kl = 0, kl_standard_error = 0, kl_p99 = 0;
  double top1_agreement = 0;
  double perplexity = 0, perplexity_source = 0;
  int64_t tokens = 0;
  std::string text_sha256;
  std::string protocol;

  bool operator==(const EvaluationRecord&) const = default;
};

struct QuantizeProvenance {
  std::string method, type, options, tool;
  std::string source_sha256;
  std::string importance_sha256;   // of a file of column importance; empty: none was used
  std::string calibration_sha256;  // of the text it was measured on; empty: none was
  std::vector<std::pair<std::string, float>> tensor_errors;  // of the tensors that changed
  std::optional<EvaluationRecord> evaluation;                // absent: nobody recorded one
};

// Absent where the file does not name its source. A key that is absent or of another type counts as
// empty: nothing depends on it.
std::optional<QuantizeProvenance> ReadProvenance(const GgufFile& file);

// Puts the record into the GGUF file at `path`, in place of one that is there: the file (not a link
// to it) is written anew beside itself and renamed, so that it is the old one or the new one at any
// moment; permissions, tensors and all other keys stay as they are. Costs reading and writing the
// whole file, and as much room on the disk. FAILED_PRECONDITION for a file that does not name its
// source; the errors of GgufFile and PartialFile.
absl::Status RecordEvaluation(const std::string& path, const EvaluationRecord& record);

}  // namespace nibble
