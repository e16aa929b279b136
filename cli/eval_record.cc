#include "cli/eval_record.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/model_file.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/random_model.h"
#include "engine/weights/gguf_file.h"

namespace nibble {
namespace {

bool IsFile(const std::string& model) { return !IsRandomModel(model) && !IsModelFolder(model); }

std::string Precision(const DivergenceSide& side) {
  return absl::StrCat(side.activations, " activations and ",
                      KvCacheTypeName(side.kv_cache_type), " cache");
}

}  // namespace

absl::Status CheckRecordable(const std::string& model, const std::string& base_model) {
  if (!IsFile(model)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--record: ", model, " is not a GGUF file, which alone has room for it"));
  }
  if (!IsFile(base_model)) {
    return absl::UnimplementedError(absl::StrCat("--record: --base-model ", base_model,
                                                 " is no file; compare with the GGUF file that ",
                                                 model, " was made from"));
  }
  NIBBLE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
  const std::optional<QuantizeProvenance> quantized = ReadProvenance(file);
  if (!quantized.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--record: ", model,
                     " does not name the model it was quantized from; only files that "
                     "`nibble quantize` wrote do"));
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::string sha256, FileSha256(base_model));
  if (sha256 == quantized->source_sha256) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--record: ", model, " was made from a file of SHA-256 ",
                   quantized->source_sha256, ", --base-model ", base_model, " has ", sha256));
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

}  // namespace nibble
