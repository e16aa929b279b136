// `nibble bench --requests N`: what continuous batching wins. The same N requests of mixed lengths
// go through the engine, at most --batch at a time, in two ways:
//   continuous   a request begins as soon as another has ended
//   static       the next --batch begin together, when the last of those before has ended
// All else is the same: the engine, its steps, the lengths, the tokens. The rate is generated
// tokens a second from the first Submit to the last end, prefill included.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "engine/engine.h"

namespace nibble {

struct RequestLengths {
  int32_t prompt_tokens = 0;
  int32_t generate_tokens = 0;
};

// Uniform from 1 to the two bounds, from a fixed seed: every run, machine and backend has the same.
std::vector<RequestLengths> DrawLengths(int32_t count, int32_t max_prompt_tokens,
                                        int32_t max_generate_tokens);

enum class Batching : uint8_t { kContinuous, kStatic };

// Runs all `requests` with `batch` at a time, and returns how long it took. Greedy, eos ignored.
// `on_end` (may be empty) is called for each that ended, on this thread. The first failure of a
// request is returned, when all have ended. The engine must be idle and take `batch` at once
// (EngineOptions.max_running).
absl::StatusOr<Duration> RunRequests(Engine& engine, absl::Span<const RequestLengths> requests,
                                     int32_t batch, Batching batching, const Clock& clock,
                                     const std::function<void()>& on_end);

struct RequestsResult {
  int32_t batch = 0;
  int32_t threads = 0;
  std::string kv_cache_type;
  int64_t prompt_tokens = 0;  // of all requests together
  int64_t generated_tokens = 0;
  std::vector<double> continuous, fixed;  // generated tokens/s, one a repetition; fixed: static
};

// Every batch, `repeat` times, the two ways after each other in each. `progress` (may be null)
// hears of requests.
absl::StatusOr<std::vector<RequestsResult>> BenchRequests(
    Engine& engine, absl::Span<const RequestLengths> requests, absl::Span<const int32_t> batches,
    int32_t repeat, const Clock& clock, std::function<void(int64_t, int64_t)> progress);

// [{"batch","threads","kv_cache_type","prompt_tokens","generated_tokens","continuous":{"median","min","max"},
// "static":{..},"ratio": the median of the repetitions' own,"ratio_min","ratio_max"}]
nlohmann::ordered_json RequestsJson(const std::vector<RequestsResult>& results);
void PrintRequests(size_t num_requests, const std::vector<RequestsResult>& results,
                   std::ostream& out);

}  // namespace nibble
