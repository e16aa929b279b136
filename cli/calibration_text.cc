#include "cli/calibration_text.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/eval_text.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/calibration/sample.h"

namespace nibble {

std::vector<int32_t> ChooseWindows(int32_t total, int32_t count, uint64_t seed) {
  std::vector<int32_t> all(total);
  std::iota(all.begin(), all.end(), 0);
  if (total <= count) return all;
  for (int32_t i = 0; i < count; ++i) {  // Fisher and Yates' shuffle, its first `count` steps
    const uint64_t draw = Scatter(Scatter(seed) + static_cast<uint64_t>(i));
    std::swap(all[i], all[i + static_cast<int32_t>(draw % static_cast<uint64_t>(total - i))]);
  }
  all.resize(count);
  std::sort(all.begin(), all.end());
  return all;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> CutCalibration(absl::Span<const int32_t> ids,
                                                                 int32_t length, int32_t bos_id,
                                                                 absl::string_view length_flag) {
  absl::StatusOr<std::vector<std::vector<int32_t>>> windows =
      quantize::CutWindows(ids, length, bos_id);
  if (windows.ok()) return windows;
  return absl::InvalidArgumentError(absl::StrCat("--calibration: ", windows.status().message(),
                                                 "; take a longer text or a smaller ",
                                                 length_flag));
}

std::vector<int32_t> CalibrationText::Joined() const {
  std::vector<int32_t> ids;
  for (const std::vector<int32_t>& window : windows) {
    ids.insert(ids.end(), window.begin(), window.end());
  }
  return ids;
}

absl::StatusOr<CalibrationText> ReadCalibration(const CalibrationOptions& options,
                                                const ModelConfig& config,
                                                const Tokenizer& tokenizer) {
  std::string text;
  if (options.path.empty()) {
    text = std::string(quantize::CalibrationSample());
  } else {
    NIBBLE_ASSIGN_OR_RETURN(text, ReadTextFile("--calibration", options.path));
  }
  CalibrationText calibration;
  calibration.sha256 =
      Hex(Sha256(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size())));
  calibration.length = std::min(options.length, config.context_length);
  NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.Encode(text, {}));
  NIBBLE_ASSIGN_OR_RETURN(const int32_t bos, BosId(tokenizer, Bos::kAuto));
  if (bos >= 0) ids.insert(ids.begin(), bos);
  NIBBLE_ASSIGN_OR_RETURN(auto windows,
                          CutCalibration(ids, calibration.length, bos, "--calibration-length"));
  const auto total = static_cast<int32_t>(windows.size());
  for (const int32_t index : ChooseWindows(total, options.windows, options.seed)) {
    calibration.windows.push_back(std::move(windows[index]));
  }
  return calibration;
}

}  // namespace nibble
