#include "cli/eval_record.h"

#include <cmath>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/folder_record.h"
#include "engine/model_file.h"
#include "engine/quantize_source.h"
#include "engine/random_model.h"

namespace nibble {
namespace {

// SHA-256 of the model that the one at `path` was made from.
absl::StatusOr<std::string> SourceSha256(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> file, ModelFile::Open(path));
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<QuantizeProvenance> quantized, ProvenanceOf(*file));
  if (quantized.has_value()) return quantized->source_sha256;
  return absl::FailedPreconditionError(
      absl::StrCat("--record: ", path,
                   " does not name the model it was quantized from; only files and folders that "
                   "`nibble quantize` wrote do"));
}

std::string Precision(const DivergenceSide& side) {
  return absl::StrCat(side.activations, " activations and ", KvCacheTypeName(side.kv_cache_type),
                      " cache");
}

}  // namespace

absl::Status CheckRecordable(const std::string& model, const std::string& base_model) {
  if (IsRandomModel(model)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--record: ", model, " is no file, which alone has room for it"));
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::string source, SourceSha256(model));
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeSource base, QuantizeSource::Open(base_model));
  NIBBLE_ASSIGN_OR_RETURN(const std::string sha256, base.Sha256());
  if (sha256 == source) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--record: ", model, " was made from a model of SHA-256 ", source,
                   ", --base-model ", base_model, " has ", sha256));
}

EvaluationRecord MakeRecord(const DivergenceResult& result, const WindowOptions& windows,
                            const DivergenceSide& base, const DivergenceSide& candidate,
                            const std::string& text) {
  EvaluationRecord record;
  record.kl = result.kl.mean;
  record.kl_standard_error = result.kl.standard_error;
  record.kl_p99 = result.kl_p99.mean;
  record.top1_agreement = result.agreement.mean;
  record.perplexity = std::exp(result.candidate_nll.mean);
  record.perplexity_source = std::exp(result.base_nll.mean);
  record.tokens = result.tokens;
  record.text_sha256 = Hex(Sha256({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  record.protocol =
      absl::StrCat("windows of ", windows.window, windows.bos_id >= 0 ? " with" : " without",
                   " BOS, ", ScoredText(windows, result.windows), "; source with ", Precision(base),
                   ", this with ", Precision(candidate));
  return record;
}

absl::Status Record(const std::string& model, const EvaluationRecord& record) {
  return IsModelFolder(model) ? RecordFolderEvaluation(model, record)
                              : RecordEvaluation(model, record);
}

}  // namespace nibble
