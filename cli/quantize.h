// `nibble quantize`: a GGUF file to one of other types (engine/quantize/gguf_quantizer.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/output.h"
#include "engine/quantize/gguf_quantizer.h"

namespace nibble {

struct QuantizeFlags {
  std::string model;
  std::string output;  // a file; the report's form is `format`
  std::string type = "q4_k_m";
  std::vector<std::string> tensor_types;  // "REGEX=TYPE"
  std::string imatrix;
  std::string calibration;     // instead: a text to measure it on
  std::string imatrix_output;  // where to keep what was measured
  bool pure = false;
  int32_t threads = 0;
  bool dry_run = false;
  bool overwrite = false;
  OutputFormat format = OutputFormat::kText;
};

void AddQuantizeFlags(Flags& flags, QuantizeFlags& quantize);

// The help's last part.
std::string QuantizeFooter();

// "REGEX=TYPE", cut at the last '='. INVALID_ARGUMENT names the flag.
absl::StatusOr<TypeOverride> ParseTensorType(const std::string& text);

// INVALID_ARGUMENT: both name one file. ALREADY_EXISTS: `output` is there and may not be replaced;
// FAILED_PRECONDITION: it is not a regular file.
absl::Status CheckOutput(const std::string& model, const std::string& output, bool overwrite);

int RunQuantize(const QuantizeFlags& flags, const Io& io);

}  // namespace nibble
