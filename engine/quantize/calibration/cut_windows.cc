#include "engine/quantize/calibration/cut_windows.h"

#include "absl/strings/str_cat.h"

namespace nibble::quantize {

absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(absl::Span<const int32_t> ids,
                                                             int32_t window, int32_t bos_id) {
  std::vector<std::vector<int32_t>> windows;
  for (size_t first = 0; first + window <= ids.size(); first += window) {
    windows.emplace_back(ids.begin() + first, ids.begin() + first + window);
    if (bos_id >= 0) windows.back()[0] = bos_id;
  }
  if (windows.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the calibration text has ", ids.size(),
                                                   " tokens, one window needs ", window));
  }
  return windows;
}

}  // namespace nibble::quantize
