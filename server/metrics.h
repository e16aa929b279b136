// Every metric of the server; metrics_port.h serves them. Names, units and labels are those
// of README.md; labels never name a request. Any thread; counting costs an atomic or a short lock.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "engine/engine.h"
#include "engine/observer.h"
#include "server/admission.h"
#include "server/server.h"

namespace nibble {

class Metrics {
 public:
  // `alias` is "" or "vllm": the gauges that routers read, under that engine's names too.
  // INVALID_ARGUMENT otherwise.
  static absl::StatusOr<std::unique_ptr<Metrics>> Create(absl::string_view model,
                                                         absl::string_view alias);
  virtual ~Metrics() = default;

  // What a scrape shows, in the text format of Prometheus.
  virtual std::string Scrape() const = 0;

  // What the engine tells.
  virtual EngineObserver* observer() = 0;
  // Asked on each scrape; set once, when serving begins. Null: zeros.
  virtual void SetLoadSource(std::function<EngineLoad()> load) = 0;
  virtual void SetModel(const ModelInfo& model) = 0;
  virtual void ReportStartupPhase(absl::string_view phase, Duration took) = 0;

  // A call of GenerationService, at its start and at its end; each started call is finished once.
  // `reason` is a finish reason or what a refusal was for.
  virtual void RequestStarted() = 0;
  virtual void RequestFinished(absl::string_view code, absl::string_view reason, Duration took) = 0;
  virtual void RequestRefused(absl::string_view reason) = 0;  // by admission

  // Any call of any service.
  virtual void CallHandled(absl::string_view rpc, absl::string_view code, Duration took) = 0;
};

}  // namespace nibble
