// The gauges that routers and autoscalers read, taken from the engine at each scrape rather than
// after each step: a request that waits behind a long step must be seen waiting.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace nibble {

class LoadCollector final : public prometheus::Collectable {
 public:
  LoadCollector(std::string model, bool vllm_alias)
      : model_(std::move(model)), vllm_alias_(vllm_alias) {}

  // Null: zeros. Returns only when no scrape uses the old source any more.
  void SetSource(std::function<EngineLoad()> source);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string model_;
  const bool vllm_alias_;
  mutable Mutex mutex_;
  std::function<EngineLoad()> source_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble
