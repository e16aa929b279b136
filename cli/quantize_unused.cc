#include "cli/quantize_unused.h"

#include "absl/strings/str_cat.h"
#include "cli/quantize_budget.h"

namespace nibble {

using quantize::Algorithm;

absl::Status CheckAllUsed(const QuantizeFlags& flags, const quantize::Method* method) {
  const auto is = [method](Algorithm algorithm) {
    return method != nullptr && method->algorithm == algorithm;
  };
  const bool reads = method != nullptr ? NeedsCalibration(*method) : !flags.calibration.empty();
  const bool rotates = method != nullptr && method->incoherent;
  const bool measures = MeasuresTensors(flags);
  const char* const kTexts =
      "a text that is looked at: of a --method other than rtn, or of --calibration with --type";
  const char* const kBudget = "--byte-budget and --sensitivity";
  const struct {
    const char* flag;
    bool used;
    const char* of;
  } kUses[] = {
      {"--damping", is(Algorithm::kGptq), "--method gptq"},
      {"--smooth-alpha", is(Algorithm::kSmoothQuant), "--method smoothquant"},
      {"--calibration-windows", reads, kTexts},
      {"--calibration-length", reads || measures, kTexts},
      {"--seed", reads || measures || rotates, kTexts},
      {"--budget-types", measures, kBudget},
      {"--budget-windows", measures, kBudget},
  };
  for (const auto& use : kUses) {
    if (use.used || !GivesFlag(flags.command_line, use.flag)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(use.flag, ": would change nothing here, it is of ", use.of));
  }
  return absl::OkStatus();
}

}  // namespace nibble
