#include "cli/quantize_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

struct Totals {
  int64_t elements = 0, source_bytes = 0, target_bytes = 0;
  double Bits(int64_t bytes) const {
    return elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
  }
};

Totals TotalsOf(const QuantizeReport& report) {
  Totals totals;
  for (const TensorOutcome& tensor : report.tensors) {
    totals.elements += tensor.num_elements;
    totals.source_bytes += tensor.source_bytes;
    totals.target_bytes += tensor.target_bytes;
  }
  return totals;
}

// Tensors that matter most first: by what the worst type would do.
std::vector<TensorChoices> ByDamage(std::vector<TensorChoices> tensors) {
  const auto worst = [](const TensorChoices& tensor) {
    double damage = 0;
    for (const TypeChoice& choice : tensor.choices) damage = std::max(damage, choice.damage);
    return damage;
  };
  std::stable_sort(
      tensors.begin(), tensors.end(),
      [&](const TensorChoices& a, const TensorChoices& b) { return worst(a) > worst(b); });
  return tensors;
}

Json SensitivityJson(const std::vector<TensorChoices>& tensors) {
  Json json = Json::array();
  for (const TensorChoices& tensor : tensors) {
    Json choices = Json::array();
    for (const TypeChoice& choice : tensor.choices) {
      choices.push_back(
          {{"type", NameOf(choice.type)}, {"bytes", choice.bytes}, {"damage", choice.damage}});
    }
    json.push_back({{"name", tensor.name}, {"choices", std::move(choices)}});
  }
  return json;
}

void PrintSensitivity(const std::vector<TensorChoices>& tensors, std::ostream& out) {
  if (tensors.empty()) return;
  out << "damage: KL in nats a token with a tensor alone at a type\n";
  for (const TensorChoices& tensor : ByDamage(tensors)) {
    out << absl::StreamFormat("%-32s", tensor.name);
    for (const TypeChoice& choice : tensor.choices) {
      out << absl::StreamFormat("  %s %.2e", NameOf(choice.type), choice.damage);
    }
    out << "\n";
  }
}

}  // namespace

QuantizeReport PlannedReport(const SourceTensors& source,
                             const std::vector<TensorRecipe>& recipes) {
  QuantizeReport report;
  for (size_t t = 0; t < recipes.size(); ++t) {
    const SourceTensor& tensor = source.tensors()[t];
    report.tensors.push_back({.name = tensor.name,
                              .source = recipes[t].source,
                              .target = recipes[t].target,
                              .num_elements = tensor.num_elements,
                              .source_bytes = tensor.size_bytes,
                              .target_bytes = BytesOf(recipes[t].target, tensor.num_elements)});
  }
  return report;
}

nlohmann::ordered_json SummaryJson(const QuantizeFlags& flags, const QuantizeSummary& summary) {
  const QuantizeReport& report = summary.report;
  const Totals totals = TotalsOf(report);
  Json tensors = Json::array();
  for (const TensorOutcome& tensor : report.tensors) {
    Json row = {{"name", tensor.name},
                {"from", NameOf(tensor.source)},
                {"to", NameOf(tensor.target)},
                {"bytes", tensor.target_bytes}};
    if (!flags.dry_run) row["relative_error"] = tensor.relative_error;
    const auto output = summary.output_errors.find(tensor.name);
    if (output != summary.output_errors.end()) row["output_error"] = output->second;
    tensors.push_back(std::move(row));
  }
  Json json = {{"model", flags.model},
               {"method", summary.method},
               {"type", summary.type},
               {"dry_run", flags.dry_run},
               {"source_weights_bytes", totals.source_bytes},
               {"weights_bytes", totals.target_bytes},
               {"bits_per_weight", totals.Bits(totals.target_bytes)},
               {"tensors", std::move(tensors)}};
  if (!summary.sensitivity.empty()) json["sensitivity"] = SensitivityJson(summary.sensitivity);
  if (flags.dry_run) return json;
  json["output"] = flags.output;
  json["output_bytes"] = report.output_bytes;
  json["source_sha256"] = report.source_sha256;
  if (summary.calibration_windows > 0) {
    json["calibration"] = {{"windows", summary.calibration_windows},
                           {"length", summary.calibration_length}};
  }
  json["seconds"] = summary.seconds;
  json["peak_bytes"] = summary.peak_bytes;
  return json;
}

void PrintSummary(const QuantizeFlags& flags, const QuantizeSummary& summary, std::ostream& out) {
  const QuantizeReport& report = summary.report;
  PrintSensitivity(summary.sensitivity, out);
  std::map<std::string, int64_t> counts;
  for (const TensorOutcome& tensor : report.tensors) {
    ++counts[NameOf(tensor.target)];
    out << absl::StreamFormat("%-32s %-5s -> %-6s %12d bytes", tensor.name, NameOf(tensor.source),
                              NameOf(tensor.target), tensor.target_bytes);
    if (!flags.dry_run && (tensor.relative_error > 0 || tensor.source != tensor.target)) {
      out << absl::StreamFormat("  error %.5f", tensor.relative_error);
    }
    out << "\n";
  }
  const Totals totals = TotalsOf(report);
  out << "tensors        "
      << absl::StrJoin(counts, ", ",
                       [](std::string* text, const auto& entry) {
                         absl::StrAppend(text, entry.second, " ", entry.first);
                       })
      << absl::StreamFormat("\nweights        %d -> %d bytes, %.3f -> %.3f bits a weight\n",
                            totals.source_bytes, totals.target_bytes,
                            totals.Bits(totals.source_bytes), totals.Bits(totals.target_bytes));
  if (!flags.dry_run) {
    out << absl::StreamFormat("took           %.1f s", summary.seconds);
    if (summary.peak_bytes > 0) {
      out << absl::StreamFormat(", at most %.1f MiB of memory",
                                static_cast<double>(summary.peak_bytes) / (1 << 20));
    }
    out << absl::StreamFormat("\nwrote          %s, %d bytes\n", flags.output, report.output_bytes);
  }
  out.flush();
}

}  // namespace nibble
