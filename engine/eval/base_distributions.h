// The base of a divergence: where the distributions come from that a candidate is compared with. A
// model that runs beside it, or a file of what one said before (base_file.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/eval/windows.h"
#include "engine/model/logits_runner.h"

namespace nibble {

// A base's word at one position.
struct BaseRow {
  absl::Span<const float> logits;       // [vocab_size], up to a constant; during the call only
  std::optional<float> target_logprob;  // of the token that follows, where more exact than logits
};

class BaseDistributions {
 public:
  using Visitor = absl::FunctionRef<void(int32_t position, const BaseRow& row)>;

  virtual ~BaseDistributions() = default;
  virtual int32_t vocab_size() const = 0;
  virtual int32_t max_tokens() const = 0;  // that one call takes
  // INVALID_ARGUMENT where these windows of these ids cannot be had.
  virtual absl::Status Check(absl::Span<const int32_t> ids, const WindowOptions& options) const = 0;
  // Tokens first .. first + n - 1 of `window`, which is number `index`, after those before them:
  // the visitor sees, in order, the positions whose next token is scored.
  virtual absl::Status Run(absl::Span<const int32_t> window, int64_t index, int32_t first,
                           int32_t n, Visitor visit) = 0;
};

// The runner, one window after the other in the same blocks. It must outlive what is returned.
std::unique_ptr<BaseDistributions> MakeRunningBase(LogitsRunner& runner,
                                                   const WindowOptions& options);

}  // namespace nibble
