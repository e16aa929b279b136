// `nibble eval table`: what each method of quantization costs and saves on one model, as a table.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/eval_text.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/eval/divergence.h"
#include "engine/quantize/training/quantization_aware.h"

namespace nibble {

struct TableFlags {
  TableFlags();
  ModelFlags model;
  TextFlags text;
  std::string methods;
  std::string calibration;            // a text; empty: none
  int32_t calibration_windows = 128;  // at most, of --window tokens each
  double damping = 0.01;
  double smooth_alpha = 0.5;
  quantize::TrainingOptions training;  // of qat; seed and threads are those beside it
  uint64_t seed = 1;
  int32_t decode_tokens = 64;  // 0: no speed is measured
  OutputFormat output = OutputFormat::kText;
};

void AddTableFlags(Flags& flags, TableFlags& table);
std::string TableFooter();

// One method, or the model as it is (first row, no KL).
struct TableRow {
  std::string method;
  double bits = 0;    // a weight of the quantized matrices
  int64_t bytes = 0;  // of the model: those, and the rest as in the file
  DivergenceResult result;
  double quantize_seconds = 0;
  int64_t peak_bytes = 0;             // resident, while quantizing; 0: unknown
  std::optional<double> decode_rate;  // tokens a second; absent: no kernel runs it
};

std::string TableMarkdown(const std::vector<TableRow>& rows, const WindowOptions& windows);
nlohmann::ordered_json TableJson(const std::vector<TableRow>& rows, const WindowOptions& windows,
                                 const TableFlags& flags);

int RunTable(const TableFlags& flags, const Io& io);

}  // namespace nibble
