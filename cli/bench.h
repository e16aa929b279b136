// `nibble bench`: tokens per second of a model on this machine, prefill and decode, without a
// server or a scheduler, and how near they are to what the machine can do.
//
// Two tests, each for every batch N; rates are sums over the N sequences.
//   prefill   N prompts of --prompt-tokens each, together
//   decode    --generate-tokens greedy tokens for N sequences together, from --context tokens in
//             the cache of each (filled before, untimed); without --context, from --prompt-tokens
// Tests are interleaved --repeat times, so that a machine that gets slower does so for all of them.
// Thread counts and types of cache come one after the other: each loads the model anew.
// With --requests neither is run, but what bench_requests.h describes.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench_roofline.h"
#include "cli/bench_sequences.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/base/clock.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct BenchFlags {
  ModelFlags model;
  std::vector<int32_t> prompt_tokens = {512};  // a 0: no prefill test
  std::vector<int32_t> context;                // empty: as prompt_tokens
  int32_t generate_tokens = 128;               // 0: no decode test
  std::vector<int32_t> batch = {1};
  std::vector<int32_t> threads = {0};
  std::string kv_cache_type = "f16";  // one or more, separated by commas
  int32_t repeat = 5;
  int32_t requests = 0;  // 0: the two tests
  bool no_roofline = false;
  std::string compare;  // an earlier run's JSON; empty: none
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
  int32_t threads = 0;
  std::string kv_cache_type;
  std::optional<Roofline> roofline;

  double MedianRate() const;
  int64_t num_tokens() const {  // of one repetition
    return int64_t{batch} * (generate_tokens > 0 ? generate_tokens : prompt_tokens);
  }
};

// The contexts the decode test runs at: none where nothing is generated.
std::vector<int32_t> DecodeContexts(const BenchFlags& flags);
// What holds all tests.
SequencesShape ShapeOf(const BenchFlags& flags);

// Runs all tests on `runner`; prefill first in what it returns. `progress` (may be null) hears
// about every step; its numbers are an estimate of the work done and of all of it.
// INVALID_ARGUMENT when the runner's limits cannot hold the largest test.
absl::StatusOr<std::vector<BenchResult>> Bench(ModelRunner& runner, const BenchFlags& flags,
                                               const Clock& clock,
                                               std::function<void(int64_t, int64_t)> progress);

int RunBench(const BenchFlags& flags, const Io& io);

}  // namespace nibble
