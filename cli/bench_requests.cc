#include "cli/bench_requests.h"

#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "cli/bench_report.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kSeed = 20260301;  // any fixed number

// Submits requests as others end, on the engine's thread, so that the next step has them: no gap
// that a caller's thread would leave.
class Feeder : public std::enable_shared_from_this<Feeder> {
 public:
  Feeder(Engine& engine, std::vector<PreparedRequest> requests, int32_t batch, Batching batching)
      : engine_(engine), requests_(std::move(requests)), batch_(batch), batching_(batching) {}

  void Start() { Submit(batch_); }

  // Waits until `count` have ended.
  void WaitFor(size_t count) {
    MutexLock lock(mutex_);
    while (ended_ < count) changed_.Wait(mutex_);
  }
  absl::Status failure() {
    MutexLock lock(mutex_);
    return failure_;
  }

 private:
  class EndSink final : public TokenSink {
   public:
    explicit EndSink(std::shared_ptr<Feeder> feeder) : feeder_(std::move(feeder)) {}
    void OnStarted(const Started&) override {}
    Room OnDelta(Delta) override { return Room::kReady; }
    void OnFinished(const Outcome& outcome) override { feeder_->Ended(outcome.status); }

   private:
    const std::shared_ptr<Feeder> feeder_;
  };

  void Ended(const absl::Status& status) {
    int32_t wanted = 1;
    {
      MutexLock lock(mutex_);
      ++ended_;
      failure_.Update(status);
      changed_.NotifyOne();
      if (batching_ == Batching::kStatic) wanted = ended_ == submitted_ ? batch_ : 0;
    }
    Submit(wanted);
  }
  // As many of those that are left.
  void Submit(int32_t count) {
    std::vector<PreparedRequest> next;
    {
      MutexLock lock(mutex_);
      for (; count > 0 && submitted_ < requests_.size(); --count) {
        next.push_back(std::move(requests_[submitted_++]));
      }
    }
    for (PreparedRequest& request : next) {
      engine_.Submit(std::move(request), std::make_shared<EndSink>(shared_from_this()));
    }
  }

  Engine& engine_;
  std::vector<PreparedRequest> requests_;
  const int32_t batch_;
  const Batching batching_;
  Mutex mutex_;
  CondVar changed_;
  size_t submitted_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::vector<PreparedRequest>> PrepareAll(const Engine& engine,
                                                        absl::Span<const RequestLengths> requests) {
  std::mt19937 random(kSeed + 1);
  const int32_t vocab_size = engine.limits().vocab_size;
  std::vector<PreparedRequest> prepared;
  for (const RequestLengths& lengths : requests) {
    TokenPrompt prompt;
    for (int32_t i = 0; i < lengths.prompt_tokens; ++i) {
      prompt.ids.push_back(static_cast<int32_t>(random() % vocab_size));
    }
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.ignore_eos = true;
    request.stopping.max_tokens = lengths.generate_tokens;
    NIBBLE_ASSIGN_OR_RETURN(PreparedRequest one, engine.Prepare(std::move(request)));
    prepared.push_back(std::move(one));
  }
  return prepared;
}

std::vector<double> Ratios(const RequestsResult& result) {
  std::vector<double> ratios;
  for (size_t i = 0; i < result.continuous.size(); ++i) {
    ratios.push_back(result.continuous[i] / result.fixed[i]);
  }
  return ratios;
}

}  // namespace

std::vector<RequestLengths> DrawLengths(int32_t count, int32_t max_prompt_tokens,
                                        int32_t max_generate_tokens) {
  std::mt19937 random(kSeed);
  const auto upTo = [&random](int32_t most) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(most)) + 1;
  };
  std::vector<RequestLengths> lengths(count);
  for (RequestLengths& of : lengths) {
    of.prompt_tokens = upTo(max_prompt_tokens);
    of.generate_tokens = upTo(max_generate_tokens);
  }
  return lengths;
}

absl::StatusOr<Duration> RunRequests(Engine& engine, absl::Span<const RequestLengths> requests,
                                     int32_t batch, Batching batching, const Clock& clock,
                                     const std::function<void()>& on_end) {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<PreparedRequest> prepared, PrepareAll(engine, requests));
  const auto feeder = std::make_shared<Feeder>(engine, std::move(prepared), batch, batching);
  const Instant start = clock.Now();
  feeder->Start();
  for (size_t ended = 1; ended <= requests.size(); ++ended) {
    feeder->WaitFor(ended);
    if (on_end) on_end();
  }
  const Duration took = clock.Now() - start;
  NIBBLE_RETURN_IF_ERROR(feeder->failure());
  return took;
}

absl::StatusOr<std::vector<RequestsResult>> BenchRequests(
    Engine& engine, absl::Span<const RequestLengths> requests, absl::Span<const int32_t> batches,
    int32_t repeat, const Clock& clock, std::function<void(int64_t, int64_t)> progress) {
  RequestsResult lengths;
  for (const RequestLengths& of : requests) {
    lengths.prompt_tokens += of.prompt_tokens;
    lengths.generated_tokens += of.generate_tokens;
  }
  std::vector<RequestsResult> results(batches.size(), lengths);
  const int64_t total = static_cast<int64_t>(requests.size() * batches.size()) * repeat * 2;
  int64_t done = 0;
  const auto on_end = [&] {
    if (progress) progress(++done, total);
  };
  const auto rate = [&](int32_t batch, Batching batching) -> absl::StatusOr<double> {
    NIBBLE_ASSIGN_OR_RETURN(const Duration took,
                            RunRequests(engine, requests, batch, batching, clock, on_end));
    return static_cast<double>(lengths.generated_tokens) / Seconds(took);
  };
  for (int32_t r = 0; r < repeat; ++r) {
    for (size_t b = 0; b < batches.size(); ++b) {
      results[b].batch = batches[b];
      NIBBLE_ASSIGN_OR_RETURN(const double continuous, rate(batches[b], Batching::kContinuous));
      NIBBLE_ASSIGN_OR_RETURN(const double fixed, rate(batches[b], Batching::kStatic));
      results[b].continuous.push_back(continuous);
      results[b].fixed.push_back(fixed);
    }
  }
  return results;
}

Json RequestsJson(const std::vector<RequestsResult>& results) {
  Json json = Json::array();
  for (const RequestsResult& result : results) {
    const Json ratio = RangeJson(Ratios(result));
    json.push_back({{"batch", result.batch},
                    {"threads", result.threads},
                    {"kv_cache_type", result.kv_cache_type},
                    {"prompt_tokens", result.prompt_tokens},
                    {"generated_tokens", result.generated_tokens},
                    {"continuous", RangeJson(result.continuous)},
                    {"static", RangeJson(result.fixed)},
                    {"ratio", ratio["median"]},
                    {"ratio_min", ratio["min"]},
                    {"ratio_max", ratio["max"]}});
  }
  return json;
}

void PrintRequests(size_t num_requests, const std::vector<RequestsResult>& results,
                   std::ostream& out) {
  if (results.empty()) return;
  out << absl::StreamFormat("%d requests, %d prompt tokens, %d generated; generated tokens/s\n",
                            num_requests, results[0].prompt_tokens, results[0].generated_tokens);
  out << absl::StreamFormat("%6s %8s %5s %12s %10s %6s  %s\n", "batch", "threads", "kv",
                            "continuous", "static", "ratio", "(range)");
  for (const Json& row : RequestsJson(results)) {
    out << absl::StreamFormat(
        "%6d %8d %5s %12.1f %10.1f %6.2f  (%.2f-%.2f)\n", row["batch"].get<int>(),
        row["threads"].get<int>(), row["kv_cache_type"].get<std::string>(),
        row["continuous"]["median"].get<double>(), row["static"]["median"].get<double>(),
        row["ratio"].get<double>(), row["ratio_min"].get<double>(), row["ratio_max"].get<double>());
  }
  out.flush();
}

}  // namespace nibble
