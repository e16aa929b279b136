// The flags of `nibble quantize`, and its help.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/output.h"
#include "engine/quantize/recipe.h"

namespace nibble {

struct QuantizeFlags {
  std::string model;
  std::string output;                     // a file; the report's form is `format`
  std::string type;                       // a mix; empty: q4_k_m, or as the method has it
  std::vector<std::string> tensor_types;  // "REGEX=TYPE"
  bool pure = false;

  std::string imatrix;
  std::string calibration;     // a text
  std::string imatrix_output;  // where to keep the importance that was measured on it

  std::string method;  // a word, or a whole name (cli/method_name.h)
  std::string scheme;
  std::string order;
  std::string layout;  // of a folder; empty: a GGUF file
  double damping = 0.01;
  double smooth_alpha = 0.5;
  int32_t calibration_windows = 128;
  int32_t calibration_length = 512;
  uint64_t seed = 1;
  bool no_resume = false;

  std::string byte_budget;  // "86MB"; empty: none
  bool sensitivity = false;
  std::string budget_types = "Q3_K,Q4_0,Q4_K,Q5_0,Q5_K,Q6_K,Q8_0";
  int32_t budget_windows = 4;

  int32_t threads = 0;
  bool dry_run = false;
  bool overwrite = false;
  OutputFormat format = OutputFormat::kText;

  std::vector<std::string> command_line;  // what was typed, without what variables add to it
};

void AddQuantizeFlags(Flags& flags, QuantizeFlags& quantize);

// The help's last part; the keys of SummaryJson and of quantize_folder.cc's are in it.
std::string QuantizeFooter();

// As --type and --tensor-type have them: INVALID_ARGUMENT names the flag. A tensor's is cut at the
// last '='.
absl::StatusOr<MixInfo> ParseTypeFlag(const std::string& type);
absl::StatusOr<TypeOverride> ParseTensorType(const std::string& text);
absl::StatusOr<std::vector<TypeOverride>> ParseTensorTypes(const std::vector<std::string>& texts);

// PlanTypes: what it refuses as INVALID_ARGUMENT is one of --tensor-type's, which is named.
absl::StatusOr<std::vector<TensorRecipe>> PlanTensors(const SourceTensors& source,
                                                      const RecipeOptions& options);

// --threads, or as the cpu backend counts.
absl::StatusOr<int32_t> NumThreads(int32_t asked);

void Warn(const Io& io, absl::string_view text);
extern const char kQuantizedTwice[];  // what to warn of where the source is quantized

}  // namespace nibble
