#include "cli/bench.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/bench_pass.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "cli/version.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

int32_t LargestBatch(const BenchFlags& flags) {
  return *std::max_element(flags.batch.begin(), flags.batch.end());
}

absl::Status Validate(const BenchFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  if (flags.batch.empty() || *std::min_element(flags.batch.begin(), flags.batch.end()) < 1) {
    return absl::InvalidArgumentError("--batch: needed numbers of at least 1, such as 1,8,32");
  }
  return absl::OkStatus();
}

// A cache of exactly what the largest pass needs.
RunnerOptions RunnerFor(const BenchFlags& flags, const ModelConfig& config) {
  RunnerOptions options = flags.model.runner;
  const int32_t tokens = flags.prompt_tokens + flags.generate_tokens;
  const int64_t blocks = (tokens + options.block_size - 1) / options.block_size;
  options.max_context = tokens;
  options.max_sequences = LargestBatch(flags);
  options.max_batch_tokens = std::max(options.max_batch_tokens, options.max_sequences);
  options.kv_cache_bytes = LargestBatch(flags) * blocks * options.block_size *
                           KvBytesPerToken(config, options.kv_cache_type);
  return options;
}

// "model name" of the first core.
std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "model name")) continue;
    const size_t colon = rest.find(':');
    if (colon != absl::string_view::npos) {
      return std::string(absl::StripAsciiWhitespace(rest.substr(colon + 1)));
    }
  }
  return "unknown";
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Short passes on the real shapes: pages of weights and cache are touched, threads are awake.
absl::Status WarmUp(ModelRunner& runner, const BenchFlags& flags, const Clock& clock) {
  constexpr int32_t kPrompt = 32, kGenerate = 4;
  BenchPass pass(runner, 1, std::min(kPrompt, flags.prompt_tokens),
                 std::min(kGenerate, flags.generate_tokens));
  NIBBLE_RETURN_IF_ERROR(pass.Prefill(clock).status());
  return pass.Decode(clock).status();
}

void PrintTable(const Json& machine, const std::vector<BenchResult>& results, std::ostream& out) {
  out << absl::StreamFormat("%s, %s, %d threads, nibble %s\n", machine["cpu"].get<std::string>(),
                            machine["isa"].get<std::string>(), machine["threads"].get<int>(),
                            machine["version"].get<std::string>());
  out << absl::StreamFormat("%-8s %7s %8s %6s %10s %10s %10s\n", "test", "prompt", "context",
                            "batch", "median", "min", "max");
  for (const BenchResult& result : results) {
    const auto [low, high] =
        std::minmax_element(result.tokens_per_second.begin(), result.tokens_per_second.end());
    out << absl::StreamFormat("%-8s %7d %8d %6d %10.1f %10.1f %10.1f  tokens/s\n", result.test,
                              result.prompt_tokens, result.context, result.batch,
                              Median(result.tokens_per_second), *low, *high);
  }
  out.flush();
}

absl::StatusOr<int> LoadAndBench(const BenchFlags& flags, const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags.model, {}));
  NIBBLE_RETURN_IF_ERROR(LoadWeights(model, RunnerFor(flags, model.config), {}));
  const DeviceInfo device = model.backend->Info();
  const Json machine = {{"cpu", CpuName()},
                        {"isa", device.isa},
                        {"threads", device.num_threads},
                        {"version", kVersion}};
  std::vector<BenchResult> results;
  {
    Progress progress(io.err, io.err_is_terminal, "bench",
                      [&io](const std::string& line) { io.err << line << std::endl; });
    NIBBLE_ASSIGN_OR_RETURN(
        results, Bench(*model.runner, flags, SteadyClock(),
                       [&progress](int64_t done, int64_t total) { progress.Update(done, total); }));
  }
  if (flags.output == OutputFormat::kJson) {
    io.out << BenchJson(machine, results).dump(2) << std::endl;
  } else {
    PrintTable(machine, results, io.out);
  }
  return kExitOk;
}

}  // namespace

void AddBenchFlags(Flags& flags, BenchFlags& bench) {
  AddModelFlag(flags, bench.model);
  flags.Add("--prompt-tokens", bench.prompt_tokens, "Tokens of each prompt")
      ->check(CLI::Range(1, 1 << 20));
  flags.Add("--generate-tokens", bench.generate_tokens, "Tokens decoded after it; 0: only prefill")
      ->check(CLI::Range(0, 1 << 20));
  flags.Add("--batch", bench.batch, "Sequences run together, such as 1,8,32")->default_str("1");
  flags.Add("--repeat", bench.repeat, "Times every pass is run")->check(CLI::Range(1, 1000));
  AddDeviceFlags(flags, bench.model);
  AddKvCacheTypeFlag(flags, bench.model);
  flags.Add("--block-size", bench.model.runner.block_size, "Tokens in one block of the cache")
      ->check(CLI::Range(8, 256));
  flags
      .Add("--max-batch-tokens", bench.model.runner.max_batch_tokens,
           "Tokens of one prefill step, over all sequences")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, bench.output);
}

absl::StatusOr<std::vector<BenchResult>> Bench(ModelRunner& runner, const BenchFlags& flags,
                                               const Clock& clock,
                                               std::function<void(int64_t, int64_t)> progress) {
  const int32_t prompt = flags.prompt_tokens, generate = flags.generate_tokens;
  NIBBLE_RETURN_IF_ERROR(BenchPass::Fits(runner.limits(), LargestBatch(flags), prompt, generate));
  NIBBLE_RETURN_IF_ERROR(WarmUp(runner, flags, clock));
  std::vector<BenchResult> prefill, decode;
  for (const int32_t batch : flags.batch) {
    prefill.push_back({"prefill", prompt, 0, 0, batch, {}});
    decode.push_back({"decode", prompt, generate, prompt, batch, {}});
  }
  int64_t done = 0;
  for (int32_t repeat = 0; repeat < flags.repeat; ++repeat) {
    for (size_t b = 0; b < flags.batch.size(); ++b) {
      const double batch = flags.batch[b];
      BenchPass pass(runner, flags.batch[b], prompt, generate);
      NIBBLE_ASSIGN_OR_RETURN(const Duration prefill_time, pass.Prefill(clock));
      prefill[b].tokens_per_second.push_back(batch * prompt / Seconds(prefill_time));
      NIBBLE_ASSIGN_OR_RETURN(const Duration decode_time, pass.Decode(clock));
      decode[b].tokens_per_second.push_back(batch * generate / Seconds(decode_time));
      if (progress)
        progress(++done, int64_t{flags.repeat} * static_cast<int64_t>(flags.batch.size()));
    }
  }
  if (generate > 0) prefill.insert(prefill.end(), decode.begin(), decode.end());
  return prefill;
}

Json BenchJson(const Json& machine, const std::vector<BenchResult>& results) {
  Json json = {{"machine", machine}, {"results", Json::array()}};
  for (const BenchResult& result : results) {
    const auto [low, high] =
        std::minmax_element(result.tokens_per_second.begin(), result.tokens_per_second.end());
    json["results"].push_back(
        {{"test", result.test},
         {"prompt_tokens", result.prompt_tokens},
         {"generate_tokens", result.generate_tokens},
         {"context", result.context},
         {"batch", result.batch},
         {"tokens_per_second",
          {{"median", Median(result.tokens_per_second)}, {"min", *low}, {"max", *high}}}});
  }
  return json;
}

int RunBench(const BenchFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) {
    return WrongUsage(io, usage);
  }
  const absl::StatusOr<int> code = LoadAndBench(flags, io);
  if (code.ok()) return *code;
  Fail(io, code.status());
  return kExitFailure;
}

}  // namespace nibble
