#include "engine/eval/windows.h"

#include "absl/strings/str_cat.h"

namespace nibble {

absl::Status CheckWindows(const RunnerLimits& limits, size_t num_ids,
                          const WindowOptions& options) {
  if (options.window < 2 || options.window > limits.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("window is ", options.window,
                                                   ", the range is 2 to the context of ",
                                                   limits.max_context, " tokens"));
  }
  if (options.skip < 1 || options.skip >= options.window) {
    return absl::InvalidArgumentError(absl::StrCat(
        "skip is ", options.skip, ", the range is 1 to window - 1 = ", options.window - 1));
  }
  if (options.stride < 0 || options.stride > options.window) {
    return absl::InvalidArgumentError(absl::StrCat("stride is ", options.stride,
                                                   ", the range is 1 to window = ", options.window,
                                                   ", or 0 for windows end to end"));
  }
  if (options.Stride() != options.window && options.skip > options.window - options.stride) {
    return absl::InvalidArgumentError(
        absl::StrCat("skip is ", options.skip, ", with a stride of ", options.stride,
                     " the range is 1 to window - stride = ", options.window - options.stride,
                     ": later tokens would be scored with less past than the first window's"));
  }
  if (options.bos_id >= limits.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("bos_id is ", options.bos_id, ", the vocabulary has ", limits.vocab_size));
  }
  if (num_ids < static_cast<size_t>(options.window)) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", num_ids,
                                                   " tokens, one window needs ", options.window,
                                                   "; take a longer text or a smaller window"));
  }
  return absl::OkStatus();
}

}  // namespace nibble
