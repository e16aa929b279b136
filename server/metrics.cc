#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/load_collector.h"

#ifndef NIBBLE_VERSION
#define NIBBLE_VERSION "0.0.0"
#endif

namespace nibble {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;

// 0.5 ms to 500 s in steps of 1, 2, 5: a quantized model's token takes milliseconds, a queued long
// prompt minutes.
const Histogram::BucketBoundaries& SecondsBuckets() {
  static const auto& buckets =
      *new Histogram::BucketBoundaries{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,
                                       1,      2,     5,     10,    20,   50,   100,  200, 500};
  return buckets;
}

const Histogram::BucketBoundaries& CountBuckets() {
  static const auto& buckets = *new Histogram::BucketBoundaries{
      1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
  return buckets;
}

std::string Text(absl::string_view text) { return std::string(text); }

// A registry whose metrics all bear nibble_ and the model's name.
class Board {
 public:
  explicit Board(absl::string_view model) : registry_(std::make_shared<prometheus::Registry>()) {
    if (!model.empty()) labels_["model"] = Text(model);
  }

  Family<Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter()
        .Name(Name(name))
        .Help(help)
        .Labels(labels_)
        .Register(*registry_);
  }
  Family<Gauge>& Gauges(const char* name, const char* help) {
    return prometheus::BuildGauge()
        .Name(Name(name))
        .Help(help)
        .Labels(labels_)
        .Register(*registry_);
  }
  Family<Histogram>& Histograms(const char* name, const char* help) {
    return prometheus::BuildHistogram()
        .Name(Name(name))
        .Help(help)
        .Labels(labels_)
        .Register(*registry_);
  }
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  static std::string Name(const char* name) { return absl::StrCat("nibble_", name); }

  std::shared_ptr<prometheus::Registry> registry_;
  Labels labels_;
};

// What the engine thread reports.
class EngineMetrics final : public EngineObserver {
 public:
  explicit EngineMetrics(Board& board)
      : first_token_(
            Seconds(board, "time_to_first_token_seconds", "From acceptance to the first token.")),
        inter_token_(
            Seconds(board, "inter_token_latency_seconds", "Between two tokens of one sequence.")),
        per_token_(Seconds(board, "time_per_output_token_seconds",
                           "Mean time of one request's tokens after its first.")),
        queue_(Seconds(board, "queue_time_seconds", "From acceptance until first scheduled.")),
        prefill_(Seconds(board, "prefill_time_seconds",
                         "From first scheduled until the prompt was processed.")),
        decode_(Seconds(board, "decode_time_seconds", "From the first token to the last.")),
        step_(Seconds(board, "engine_step_seconds", "One step of the engine.")),
        batch_tokens_(
            board.Histograms("batch_tokens", "Tokens of one step.").Add({}, CountBuckets())),
        batch_sequences_(
            board.Histograms("batch_sequences", "Sequences of one step.").Add({}, CountBuckets())),
        prompt_tokens_(Count(board, "prompt_tokens_total",
                             "Prompt tokens processed, recomputed ones excluded.")),
        generation_tokens_(Count(board, "generation_tokens_total", "Tokens generated.")),
        cached_tokens_(
            Count(board, "cached_prompt_tokens_total", "Prompt tokens found in the prefix cache.")),
        recomputed_tokens_(
            Count(board, "recomputed_tokens_total", "Tokens computed again after a preemption.")),
        preemptions_(
            Count(board, "preemptions_total", "Times a sequence lost its blocks to others.")),
        steps_(Count(board, "engine_steps_total",
                     "Steps of the engine; stands still only when idle.")),
        last_step_(board
                       .Gauges("engine_last_step_timestamp_seconds",
                               "Unix time of the last step; 0 before it.")
                       .Add({})) {}

  void OnStep(const StepStats& stats) override {
    step_.Observe(nibble::Seconds(stats.step));
    batch_tokens_.Observe(stats.batch_tokens);
    batch_sequences_.Observe(stats.batch_sequences);
    prompt_tokens_.Increment(std::max(0, stats.prompt_tokens - stats.recomputed_tokens));
    recomputed_tokens_.Increment(stats.recomputed_tokens);
    generation_tokens_.Increment(stats.generated_tokens);
    steps_.Increment();
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    last_step_.Set(std::chrono::duration<double>(now).count());
  }
  void OnPreempted(RequestId) override { preemptions_.Increment(); }
  void OnFirstToken(Duration since_submit) override {
    first_token_.Observe(nibble::Seconds(since_submit));
  }
  void OnInterToken(Duration between) override { inter_token_.Observe(nibble::Seconds(between)); }
  void OnFinished(RequestId, const Outcome& outcome) override {
    const Timings& timings = outcome.timings;
    queue_.Observe(nibble::Seconds(timings.queue));
    if (outcome.stage == Stage::kQueued) return;
    cached_tokens_.Increment(outcome.usage.cached_tokens);
    if (outcome.stage == Stage::kPrefill) return;
    prefill_.Observe(nibble::Seconds(timings.prefill));
    decode_.Observe(nibble::Seconds(timings.decode));
    if (outcome.usage.completion_tokens > 1) {
      per_token_.Observe(nibble::Seconds(timings.decode) / (outcome.usage.completion_tokens - 1));
    }
  }

 private:
  static Histogram& Seconds(Board& board, const char* name, const char* help) {
    return board.Histograms(name, help).Add({}, SecondsBuckets());
  }
  static Counter& Count(Board& board, const char* name, const char* help) {
    return board.Counters(name, help).Add({});
  }

  Histogram& first_token_;
  Histogram& inter_token_;
  Histogram& per_token_;
  Histogram& queue_;
  Histogram& prefill_;
  Histogram& decode_;
  Histogram& step_;
  Histogram& batch_tokens_;
  Histogram& batch_sequences_;
  Counter& prompt_tokens_;
  Counter& generation_tokens_;
  Counter& cached_tokens_;
  Counter& recomputed_tokens_;
  Counter& preemptions_;
  Counter& steps_;
  Gauge& last_step_;
};

class PrometheusMetrics final : public Metrics {
 public:
  PrometheusMetrics(absl::string_view model, bool vllm_alias)
      : board_(model),
        engine_(board_),
        load_(std::make_shared<LoadCollector>(Text(model), vllm_alias)),
        started_(board_.Counters("requests_started_total", "Calls of GenerationService.").Add({})),
        finished_(
            board_.Counters("requests_finished_total",
                            "Calls of GenerationService that ended, by status code and reason.")),
        rejections_(board_.Counters("admission_rejections_total",
                                    "Calls refused by admission, by what was full.")),
        duration_(board_
                      .Histograms("request_duration_seconds",
                                  "Calls of GenerationService, from arrival to end.")
                      .Add({}, SecondsBuckets())),
        handling_(board_.Histograms("grpc_server_handling_seconds",
                                    "Calls of every service, by status code.")),
        startup_(board_.Gauges("startup_phase_seconds", "How long each phase of start-up took.")),
        weights_(board_.Gauges("weights_bytes", "Weights on the device.").Add({})),
        kv_cache_(board_.Gauges("kv_cache_bytes", "The KV cache on the device.").Add({})) {
    for (const char* quota : {"open_requests", "queued_prompt_tokens", "queued_bytes"}) {
      rejections_.Add({{"reason", quota}});
    }
    board_.Gauges("build_info", "1; the label tells the version.")
        .Add({{"version", NIBBLE_VERSION}})
        .Set(1);
  }

  std::string Scrape() const override {
    std::vector<prometheus::MetricFamily> families = board_.registry()->Collect();
    for (prometheus::MetricFamily& family : load_->Collect()) families.push_back(std::move(family));
    return prometheus::TextSerializer().Serialize(families);
  }

  EngineObserver* observer() override { return &engine_; }
  void SetLoadSource(std::function<EngineLoad()> load) override {
    load_->SetSource(std::move(load));
  }
  void SetModel(const ModelInfo& model) override {
    weights_.Set(static_cast<double>(model.weights_bytes));
    kv_cache_.Set(static_cast<double>(model.kv_cache_bytes));
  }
  void ReportStartupPhase(absl::string_view phase, Duration took) override {
    startup_.Add({{"phase", Text(phase)}}).Set(Seconds(took));
  }

  void RequestStarted() override { started_.Increment(); }
  void RequestFinished(absl::string_view code, absl::string_view reason, Duration took) override {
    finished_.Add({{"code", Text(code)}, {"reason", Text(reason)}}).Increment();
    duration_.Observe(Seconds(took));
  }
  void RequestRefused(absl::string_view reason) override {
    rejections_.Add({{"reason", Text(reason)}}).Increment();
  }
  void CallHandled(absl::string_view rpc, absl::string_view code, Duration took) override {
    handling_.Add({{"rpc", Text(rpc)}, {"code", Text(code)}}, SecondsBuckets())
        .Observe(Seconds(took));
  }

 private:
  Board board_;
  EngineMetrics engine_;
  std::shared_ptr<LoadCollector> load_;
  Counter& started_;
  Family<Counter>& finished_;
  Family<Counter>& rejections_;
  Histogram& duration_;
  Family<Histogram>& handling_;
  Family<Gauge>& startup_;
  Gauge& weights_;
  Gauge& kv_cache_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Create(absl::string_view model,
                                                         absl::string_view alias) {
  if (!alias.empty() && alias != "vllm") {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics-alias is '", alias, "', needs 'vllm' or nothing"));
  }
  return std::make_unique<PrometheusMetrics>(model, alias == "vllm");
}

}  // namespace nibble
