#include "server/load_collector.h"

#include <prometheus/client_metric.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

using Label = prometheus::ClientMetric::Label;

prometheus::MetricFamily OneGauge(std::string name, std::string help, double value,
                                  std::vector<Label> labels) {
  prometheus::MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = prometheus::MetricType::Gauge;
  family.metric.emplace_back();
  family.metric.back().label = std::move(labels);
  family.metric.back().gauge.value = value;
  return family;
}

}  // namespace

void LoadCollector::SetSource(std::function<EngineLoad()> source) {
  MutexLock lock(mutex_);
  source_ = std::move(source);
}

std::vector<prometheus::MetricFamily> LoadCollector::Collect() const {
  EngineLoad load;
  {
    MutexLock lock(mutex_);
    if (source_) load = source_();
  }
  const double usage =
      load.num_blocks > 0 ? static_cast<double>(load.blocks_in_use) / load.num_blocks : 0;
  const std::string block_size = absl::StrCat(load.block_size);
  const std::string num_blocks = absl::StrCat(load.num_blocks);
  std::vector<Label> labels;
  if (!model_.empty()) labels.push_back({"model", model_});
  std::vector<Label> cache = labels;
  cache.push_back({"block_size", block_size});
  cache.push_back({"num_blocks", num_blocks});

  std::vector<prometheus::MetricFamily> families;
  families.push_back(OneGauge("nibble_requests_running", "Sequences that hold KV cache blocks.",
                              load.running, labels));
  families.push_back(OneGauge("nibble_requests_waiting", "Requests accepted and not yet scheduled.",
                              load.waiting, labels));
  families.push_back(OneGauge("nibble_requests_paused",
                              "Of the running: waiting for a slow client.", load.paused, labels));
  families.push_back(
      OneGauge("nibble_kv_cache_usage_ratio", "KV cache blocks in use, 0 to 1.", usage, labels));
  families.push_back(
      OneGauge("nibble_cache_config_info", "1; the labels tell the KV cache's shape.", 1, cache));
  if (!vllm_alias_) return families;

  const std::vector<Label> named = {{"model_name", model_}};
  families.push_back(
      OneGauge("vllm:num_requests_running", "nibble_requests_running.", load.running, named));
  families.push_back(
      OneGauge("vllm:num_requests_waiting", "nibble_requests_waiting.", load.waiting, named));
  families.push_back(
      OneGauge("vllm:kv_cache_usage_perc", "nibble_kv_cache_usage_ratio.", usage, named));
  families.push_back(OneGauge(
      "vllm:cache_config_info", "nibble_cache_config_info.", 1,
      {{"model_name", model_}, {"block_size", block_size}, {"num_gpu_blocks", num_blocks}}));
  return families;
}

}  // namespace nibble
