#include "engine/quantize/provenance.h"

#include "kernels/check.h"

namespace nibble {
namespace {

constexpr uint32_t kGgmlQuantizationVersion = 2;

}  // namespace

void SetProvenance(const Provenance& provenance, const MixInfo& mix,
                   absl::Span<const std::string> tensors, absl::Span<const float> errors,
                   GgufKeys& keys) {
  NIBBLE_CHECK(tensors.size() == errors.size());
  keys.RemoveAll("nibble.quantize.");
  keys.SetU32("general.file_type", mix.file_type);
  keys.SetU32("general.quantization_version", kGgmlQuantizationVersion);
  keys.SetString("nibble.quantize.source_sha256", provenance.source_sha256);
  keys.SetString("nibble.quantize.method", provenance.method);
  keys.SetString("nibble.quantize.type", mix.name);
  keys.SetString("nibble.quantize.options", provenance.options);
  if (!provenance.importance_sha256.empty()) {
    keys.SetString("nibble.quantize.importance_sha256", provenance.importance_sha256);
  }
  if (!provenance.calibration_sha256.empty()) {
    keys.SetString("nibble.quantize.calibration_sha256", provenance.calibration_sha256);
  }
  keys.SetString("nibble.quantize.tool", provenance.tool);
  keys.SetStrings("nibble.quantize.tensors", tensors);
  keys.SetFloats("nibble.quantize.tensor_errors", errors);
}

}  // namespace nibble
