// What `nibble eval divergence` prints.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/eval_divergence.h"

namespace nibble {
namespace {

constexpr double kPercent = 100;

nlohmann::ordered_json SideJson(const DivergenceSide& side) {
  if (!side.file.empty()) return {{"file", side.file}, {"description", side.model}};
  return {{"model", side.model},
          {"cpu_isa", side.isa},
          {"cpu_activations", side.activations},
          {"kv_cache_type", KvCacheTypeName(side.kv_cache_type)}};
}

std::string SideText(const char* what, const DivergenceSide& side) {
  if (!side.file.empty()) return absl::StrFormat("%-11s%s (%s)\n", what, side.file, side.model);
  return absl::StrFormat("%-11s%s  %s  %s activations  %s cache\n", what, side.model, side.isa,
                         side.activations, KvCacheTypeName(side.kv_cache_type));
}

Estimate Perplexity(const Estimate& nll) {
  const double perplexity = std::exp(nll.mean);
  return {perplexity, perplexity * nll.standard_error};
}

nlohmann::ordered_json KlJson(const DivergenceResult& result) {
  return {{"mean", result.kl.mean},
          {"standard_error", result.kl.standard_error},
          {"median", result.kl_median.mean},
          {"median_standard_error", result.kl_median.standard_error},
          {"p90", result.kl_p90.mean},
          {"p90_standard_error", result.kl_p90.standard_error},
          {"p99", result.kl_p99.mean},
          {"p99_standard_error", result.kl_p99.standard_error},
          {"max", result.kl_max}};
}

nlohmann::ordered_json PerplexitiesJson(const DivergenceResult& result) {
  const Estimate base = Perplexity(result.base_nll), candidate = Perplexity(result.candidate_nll);
  const Estimate ratio = PerplexityRatio(result);
  return {{"base", base.mean},           {"base_standard_error", base.standard_error},
          {"candidate", candidate.mean}, {"candidate_standard_error", candidate.standard_error},
          {"ratio", ratio.mean},         {"ratio_standard_error", ratio.standard_error}};
}

}  // namespace

nlohmann::ordered_json DivergenceJson(const DivergenceResult& result, const WindowOptions& windows,
                                      const DivergenceSide& base, const DivergenceSide& candidate) {
  return {{"windows", result.windows},
          {"window", windows.window},
          {"first_scored", windows.skip},
          {"stride", windows.Stride()},
          {"tokens", result.tokens},
          {"kl", KlJson(result)},
          {"top1_agreement",
           {{"percent", kPercent * result.agreement.mean},
            {"standard_error", kPercent * result.agreement.standard_error}}},
          {"probability_change",
           {{"rms_percent", kPercent * result.probability_rms.mean},
            {"standard_error", kPercent * result.probability_rms.standard_error}}},
          {"logprob_delta",
           {{"mean", result.delta.mean}, {"standard_error", result.delta.standard_error}}},
          {"perplexity", PerplexitiesJson(result)},
          {"base", SideJson(base)},
          {"candidate", SideJson(candidate)}};
}

std::string DivergenceText(const DivergenceResult& result, const WindowOptions& windows,
                           const DivergenceSide& base, const DivergenceSide& candidate) {
  const Estimate ratio = PerplexityRatio(result);
  const Estimate of_base = Perplexity(result.base_nll);
  const Estimate of_candidate = Perplexity(result.candidate_nll);
  return absl::StrCat(
      SideText("base", base), SideText("candidate", candidate),
      absl::StrFormat("scored     %d tokens: %s\n", result.tokens,
                      ScoredText(windows, result.windows)),
      absl::StrFormat("KL         mean %.6f +- %.6f  median %.6f +- %.6f  90 %% %.6f +- %.6f  "
                      "99 %% %.6f +- %.6f  max %.6f nats\n",
                      result.kl.mean, result.kl.standard_error, result.kl_median.mean,
                      result.kl_median.standard_error, result.kl_p90.mean,
                      result.kl_p90.standard_error, result.kl_p99.mean,
                      result.kl_p99.standard_error, result.kl_max),
      absl::StrFormat("top-1      %.2f %% +- %.2f the same\n", kPercent * result.agreement.mean,
                      kPercent * result.agreement.standard_error),
      absl::StrFormat("change     rms %.3f %% +- %.3f of the probability of the text's tokens\n",
                      kPercent * result.probability_rms.mean,
                      kPercent * result.probability_rms.standard_error),
      absl::StrFormat("delta      mean %+.6f +- %.6f nats of the text's tokens\n",
                      result.delta.mean, result.delta.standard_error),
      absl::StrFormat("perplexity base %.4f +- %.4f  candidate %.4f +- %.4f  ratio %.6f +- %.6f\n",
                      of_base.mean, of_base.standard_error, of_candidate.mean,
                      of_candidate.standard_error, ratio.mean, ratio.standard_error));
}

nlohmann::ordered_json SavedBaseJson(const std::string& path, const BaseFileInfo& info) {
  const Estimate perplexity = Perplexity(info.nll);
  return {{"file", path},
          {"description", info.description},
          {"windows", info.num_windows},
          {"tokens", info.num_positions},
          {"bytes", info.size_bytes},
          {"bytes_per_token", info.position_bytes},
          {"perplexity", perplexity.mean},
          {"perplexity_standard_error", perplexity.standard_error}};
}

}  // namespace nibble
