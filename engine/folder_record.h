// What a quantized model folder tells of how it came to be: nibble_quantize.json, with the keys of
// a GGUF file (quantize_record.h) but for
//
//   nibble.quantize.layout   "gptq", in the place of the type
//
// The file is as untrusted as its neighbours: bounded by JsonLimits, and a key of another type than
// it has is an error. Keys that are not known here are kept and not read. Nothing that is served
// depends on it.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_file.h"
#include "engine/quantize_record.h"
#include "engine/weights/hf/json.h"
#include "engine/weights/hf/model_folder.h"

namespace nibble {

// Absent where the object does not name its source. INVALID_ARGUMENT names the key, what it is and
// what is needed: a string, a number, an error of each tensor.
absl::StatusOr<std::optional<QuantizeProvenance>> ReadProvenance(const JsonObject& json);

// Of any model: a GGUF file's keys, a folder's file (absent where it has none), nothing of a random
// model. Errors, of a folder alone: JsonObject's, ModelFolder's and those above.
absl::StatusOr<std::optional<QuantizeProvenance>> ProvenanceOf(const ModelFile& model);

// Puts the record into the folder's file, in place of one that is there; the file is the old one or
// the new one at any moment. FAILED_PRECONDITION for a folder that does not name its source; the
// errors of reading it, and PartialFile's.
absl::Status RecordFolderEvaluation(const std::string& folder, const EvaluationRecord& record);

}  // namespace nibble
