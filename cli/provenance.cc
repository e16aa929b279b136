#include "cli/provenance.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

Json EvaluationJson(const std::optional<EvaluationRecord>& record) {
  if (!record.has_value()) return nullptr;
  return {{"kl", record->kl},
          {"kl_standard_error", record->kl_standard_error},
          {"kl_p99", record->kl_p99},
          {"top1_agreement", record->top1_agreement},
          {"perplexity", record->perplexity},
          {"perplexity_source", record->perplexity_source},
          {"tokens", record->tokens},
          {"text_sha256", record->text_sha256},
          {"protocol", record->protocol}};
}

void PrintEvaluation(const EvaluationRecord& record, Lines& lines) {
  lines.Add("  quality",
            absl::StrFormat("KL from its source %.6f +- %.6f nats a token, 99 %% %.6f; "
                            "same top-1 %.2f %%",
                            record.kl, record.kl_standard_error, record.kl_p99,
                            100 * record.top1_agreement));
  lines.Add("  perplexity", absl::StrFormat("%.4f, its source's %.4f", record.perplexity,
                                            record.perplexity_source));
  lines.Add("  measured", absl::StrFormat("on %d tokens of sha256 %s: %s", record.tokens,
                                          record.text_sha256, record.protocol));
}

}  // namespace

void Lines::Add(absl::string_view name, absl::string_view value) {
  if (value.empty()) return;
  std::string text(value);
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  out_ << absl::StreamFormat("%-14s %s\n", name, text);
}

Json ProvenanceJson(const std::optional<QuantizeProvenance>& from) {
  if (!from.has_value()) return nullptr;
  const QuantizeProvenance& quantized = *from;
  Json errors = Json::object();
  for (const auto& [name, error] : quantized.tensor_errors) errors[name] = error;
  return {{"method", quantized.method},
          {"type", quantized.type},
          {"options", quantized.options},
          {"tool", quantized.tool},
          {"source_sha256", quantized.source_sha256},
          {"importance_sha256", quantized.importance_sha256},
          {"calibration_sha256", quantized.calibration_sha256},
          {"tensor_errors", std::move(errors)},
          {"evaluation", EvaluationJson(quantized.evaluation)}};
}

void PrintProvenance(const QuantizeProvenance& quantized, Lines& lines) {
  std::string how = absl::StrCat(quantized.type, " (", quantized.method, ") by ", quantized.tool);
  if (!quantized.options.empty()) absl::StrAppend(&how, ", ", quantized.options);
  lines.Add("quantized", how);
  lines.Add("  from sha256", quantized.source_sha256);
  if (!quantized.importance_sha256.empty()) {
    lines.Add("  importance", absl::StrCat("sha256 ", quantized.importance_sha256));
  }
  if (!quantized.calibration_sha256.empty()) {
    lines.Add("  calibration", absl::StrCat("sha256 ", quantized.calibration_sha256));
  }
  if (quantized.evaluation.has_value()) PrintEvaluation(*quantized.evaluation, lines);
  if (quantized.tensor_errors.empty()) return;
  const auto worst =
      std::max_element(quantized.tensor_errors.begin(), quantized.tensor_errors.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  lines.Add("  errors",
            absl::StrFormat("%d tensors, at most %.5f (%s)", quantized.tensor_errors.size(),
                            worst->second, worst->first));
}

}  // namespace nibble
