// `nibble eval divergence --record`: what was measured goes into the file it was measured of.
//
// Beside the measuring and not in `nibble quantize`, because the text, the windows and the
// precision are the measurement's, because a file can be measured again on another text, and
// because whoever quantizes ten variants measures the one that is kept.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/eval_divergence.h"
#include "engine/quantize_record.h"

namespace nibble {

// Asked before anything is measured. FAILED_PRECONDITION where `model` is neither a GGUF file nor a
// folder that `nibble quantize` made, or `base_model` not what it was made from (its SHA-256 is
// another); errors of ProvenanceOf (engine/folder_record.h). Reads the base once.
absl::Status CheckRecordable(const std::string& model, const std::string& base_model);

// `text` are the bytes that were scored.
EvaluationRecord MakeRecord(const DivergenceResult& result, const WindowOptions& windows,
                            const DivergenceSide& base, const DivergenceSide& candidate,
                            const std::string& text);

// Into the keys of a GGUF file, or into a folder's nibble_quantize.json.
absl::Status Record(const std::string& model, const EvaluationRecord& record);

}  // namespace nibble
