// `nibble bench`: tokens per second of a model on this machine, prefill and decode, without a
// server or a scheduler.
//
// One pass of batch N: N sequences of --prompt-tokens each are prefilled (timed: prefill), then
// --generate-tokens greedy tokens are decoded for all of them together (timed: decode). Passes of
// the batches are interleaved --repeat times, so that a machine that gets slower does so for all of
// them. Rates are sums over the N sequences.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/base/clock.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct BenchFlags {
  ModelFlags model;
  int32_t prompt_tokens = 512;
  int32_t generate_tokens = 128;
  std::vector<int32_t> batch = {1};
  int32_t repeat = 5;
  OutputFormat output = OutputFormat::kText;
};

void AddBenchFlags(Flags& flags, BenchFlags& bench);

struct BenchResult {
  std::string test;  // "prefill", "decode"
  int32_t prompt_tokens = 0;
  int32_t generate_tokens = 0;  // 0 for prefill
  int32_t context = 0;          // tokens in the cache of each sequence when the clock starts
  int32_t batch = 0;
  std::vector<double> tokens_per_second;  // one a repetition
};

// Runs all passes on `runner`. INVALID_ARGUMENT when its limits cannot hold the largest batch.
absl::StatusOr<std::vector<BenchResult>> Bench(ModelRunner& runner, const BenchFlags& flags,
                                               const Clock& clock,
                                               std::function<void(int64_t, int64_t)> progress);

// {"machine":{..},"results":[..]}
nlohmann::ordered_json BenchJson(const nlohmann::ordered_json& machine,
                                 const std::vector<BenchResult>& results);

int RunBench(const BenchFlags& flags, const Io& io);

}  // namespace nibble
