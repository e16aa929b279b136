// A runner whose next step is refused once a flag is raised, so that an evaluation of many windows
// ends where Ctrl-C finds it.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/status_macros.h"
#include "engine/model/logits_runner.h"

namespace nibble {

// Runs what `runner` runs, or CANCELLED. Both must outlive it.
class CancellableRunner final : public LogitsRunner {
 public:
  CancellableRunner(LogitsRunner& runner, const std::atomic<bool>& cancelled)
      : runner_(runner), cancelled_(cancelled) {}

  RunnerLimits limits() const override { return runner_.limits(); }
  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    NIBBLE_RETURN_IF_ERROR(Check());
    return runner_.Run(batch);
  }
  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    NIBBLE_RETURN_IF_ERROR(Check());
    return runner_.RunForLogits(batch, visit);
  }

 private:
  absl::Status Check() const {
    return cancelled_.load() ? absl::CancelledError("stopped") : absl::OkStatus();
  }

  LogitsRunner& runner_;
  const std::atomic<bool>& cancelled_;
};

}  // namespace nibble
