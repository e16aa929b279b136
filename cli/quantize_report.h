// What `nibble quantize` tells when it is done, or would be: a line a tensor for people, JSON for
// programs.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "cli/quantize_flags.h"
#include "engine/quantize/budget.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize/recipe.h"
#include "engine/quantize/source_tensors.h"

namespace nibble {

struct QuantizeSummary {
  std::string method = "ggml";  // or Method.name
  std::string type;             // the mix
  QuantizeReport report;
  // Of the outputs' energy on the calibration text, by tensor; where a method measures it.
  std::map<std::string, double> output_errors;
  std::vector<TensorChoices> sensitivity;                   // empty: not measured
  int32_t calibration_windows = 0, calibration_length = 0;  // 0: no text was looked at
  double seconds = 0;
  int64_t peak_bytes = 0;  // resident; 0: unknown
};

// Sizes without errors: all that is known before the work.
QuantizeReport PlannedReport(const SourceTensors& source, const std::vector<TensorRecipe>& recipes);

nlohmann::ordered_json SummaryJson(const QuantizeFlags& flags, const QuantizeSummary& summary);
void PrintSummary(const QuantizeFlags& flags, const QuantizeSummary& summary, std::ostream& out);

}  // namespace nibble
