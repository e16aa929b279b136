#include "cli/bench.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/bench_report.h"
#include "cli/bench_requests.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxList = 64;  // values of one flag: tests multiply

absl::Status CheckList(const char* name, const std::vector<int32_t>& values, int32_t low,
                       int32_t high) {
  if (values.empty() || values.size() > kMaxList) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": found ", values.size(), " numbers, needed 1 to ", kMaxList));
  }
  for (const int32_t value : values) {
    if (value >= low && value <= high) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": found ", value, ", needed numbers from ", low, " to ", high));
  }
  return absl::OkStatus();
}

// The types of cache --kv-cache-type knows: the one place where a name becomes what a runner is
// created with.
absl::Status SetKvCacheType(absl::string_view name, RunnerOptions& options) {
  std::string known;
  for (const auto& [word, type] : KvCacheTypes()) {
    if (name == word) {
      options.kv_cache_type = type;
      return absl::OkStatus();
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", word);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--kv-cache-type: found '", name, "', needed one of ", known));
}

std::vector<std::string> TypesToRun(const BenchFlags& flags) {
  return absl::StrSplit(flags.kv_cache_type, ',');
}

absl::Status ValidateRequests(const BenchFlags& flags) {
  if (!flags.context.empty() || !flags.compare.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--requests: found ", flags.context.empty() ? "--compare" : "--context",
                     " too, which is of the tests without it"));
  }
  if (ShapeOf(flags).prompt_tokens == 0 || flags.generate_tokens == 0) {
    return absl::InvalidArgumentError(
        "--requests: needed --prompt-tokens and --generate-tokens above 0, the longest of them");
  }
  return absl::OkStatus();
}

absl::Status Validate(const BenchFlags& flags) {
  constexpr int32_t kMaxTokens = 1 << 20, kMaxThreads = 256;
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  NIBBLE_RETURN_IF_ERROR(CheckList("--prompt-tokens", flags.prompt_tokens, 0, kMaxTokens));
  if (!flags.context.empty()) {
    NIBBLE_RETURN_IF_ERROR(CheckList("--context", flags.context, 1, kMaxTokens));
  }
  NIBBLE_RETURN_IF_ERROR(CheckList("--batch", flags.batch, 1, kMaxTokens));
  NIBBLE_RETURN_IF_ERROR(CheckList("--threads", flags.threads, 0, kMaxThreads));
  for (const std::string& name : TypesToRun(flags)) {
    RunnerOptions unused;
    NIBBLE_RETURN_IF_ERROR(SetKvCacheType(name, unused));
  }
  if (flags.requests > 0) return ValidateRequests(flags);
  if (ShapeOf(flags).prompt_tokens == 0) {
    return absl::InvalidArgumentError("--prompt-tokens 0: needed a --context to decode at");
  }
  return absl::OkStatus();
}

// A cache of exactly what the largest test needs.
absl::StatusOr<RunnerOptions> RunnerFor(const BenchFlags& flags, const std::string& kv_cache_type,
                                        const ModelConfig& config) {
  RunnerOptions options = flags.model.runner;
  NIBBLE_RETURN_IF_ERROR(SetKvCacheType(kv_cache_type, options));
  const SequencesShape shape = ShapeOf(flags);
  NIBBLE_RETURN_IF_ERROR(BenchSequences::FitsContext(config.context_length, shape));
  options.max_context = shape.max_context();
  options.max_sequences = shape.num_sequences;
  options.max_batch_tokens = std::max(options.max_batch_tokens, options.max_sequences);
  options.kv_cache_bytes = int64_t{shape.num_sequences} *
                           shape.blocks_per_sequence(options.block_size) * options.block_size *
                           KvBytesPerToken(config, options.kv_cache_type);
  return options;
}

Json ModelJson(const BenchFlags& flags, const LocalModel& model, int64_t kv_bytes_per_token) {
  std::error_code ignored;
  const auto file_bytes = std::filesystem::file_size(flags.model.model, ignored);
  return {{"file", std::filesystem::path(flags.model.model).filename().string()},
          {"file_bytes", ignored ? 0 : static_cast<int64_t>(file_bytes)},
          {"weights_bytes", model.runner->bytes().weights},
          {"kv_bytes_per_token", kv_bytes_per_token},
          {"activations", ActivationsName(*model.backend, flags.model.cpu)}};
}

void AddRooflines(const LocalModel& model, int64_t kv_bytes_per_token, const MachinePeaks& peaks,
                  CpuActivations activations, std::vector<BenchResult>& results) {
  const ModelCost cost = CostOf(model.config, model.runner->bytes(), kv_bytes_per_token);
  const int32_t max_batch_tokens = model.runner->limits().max_batch_tokens;
  for (BenchResult& result : results) {
    const PassCost pass =
        result.generate_tokens > 0
            ? DecodeCost(cost, result.batch, result.context, result.generate_tokens)
            : PrefillCost(cost, result.batch, result.prompt_tokens, max_batch_tokens);
    const int64_t tokens = result.num_tokens();
    result.roofline = RooflineOf(pass, tokens, static_cast<double>(tokens) / result.MedianRate(),
                                 peaks, activations);
  }
}

// Everything a run finds out, over all thread counts and types of cache.
struct Run {
  DeviceInfo device;  // of the first thread count
  std::vector<MachinePeaks> peaks;
  Json model;
  std::vector<BenchResult> results;
  std::vector<RequestsResult> requests;
};

Progress Bar(const Io& io, const std::string& what) {
  return Progress(io.err, io.err_is_terminal, what,
                  [&io](const std::string& line) { io.err << line << std::endl; });
}

// The tests of one setting, into `run`.
absl::Status BenchTests(const BenchFlags& flags, const std::string& kv_cache_type,
                        const CpuOptions& cpu, LocalModel& model, const Clock& clock, const Io& io,
                        Run& run) {
  const DeviceInfo device = model.backend->Info();
  const bool measured = !run.peaks.empty() && run.peaks.back().num_threads == device.num_threads;
  // What the machine can do at most is known of its CPU only.
  const bool roofline = !flags.no_roofline && device.name == "cpu";
  if (roofline && !measured) {
    NIBBLE_ASSIGN_OR_RETURN(const MachinePeaks peaks,
                            MeasurePeaks(cpu, model.runner->bytes().weights, [&clock] {
                              return Seconds(clock.Now().time_since_epoch());
                            }));
    run.peaks.push_back(peaks);
  }
  std::vector<BenchResult> results;
  {
    Progress bar =
        Bar(io, absl::StrCat("bench, ", device.num_threads, " threads, ", kv_cache_type, " cache"));
    NIBBLE_ASSIGN_OR_RETURN(
        results, Bench(*model.runner, flags, clock,
                       [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  }
  for (BenchResult& result : results) {
    result.threads = device.num_threads;
    result.kv_cache_type = kv_cache_type;
  }
  if (roofline) {
    AddRooflines(model, run.model["kv_bytes_per_token"].get<int64_t>(), run.peaks.back(),
                 cpu.activations, results);
  }
  run.results.insert(run.results.end(), results.begin(), results.end());
  return absl::OkStatus();
}

// The same for --requests. Takes the model's runner and tokenizer.
absl::Status BenchEngine(const BenchFlags& flags, const std::string& kv_cache_type,
                         LocalModel& model, const Clock& clock, const Io& io, Run& run) {
  const DeviceInfo device = model.backend->Info();
  const SequencesShape shape = ShapeOf(flags);
  EngineOptions options;
  options.max_running = shape.num_sequences;
  options.max_batch_tokens = model.runner->limits().max_batch_tokens;
  options.prefix_cache = false;
  EngineParts parts;
  parts.runner = std::move(model.runner);
  parts.tokenizer = std::move(model.tokenizer);
  parts.clock = &clock;
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                          Engine::Create(std::move(parts), options));
  Progress bar = Bar(
      io, absl::StrCat("requests, ", device.num_threads, " threads, ", kv_cache_type, " cache"));
  NIBBLE_ASSIGN_OR_RETURN(
      std::vector<RequestsResult> results,
      BenchRequests(*engine,
                    DrawLengths(flags.requests, shape.prompt_tokens, shape.generate_tokens),
                    flags.batch, flags.repeat, clock,
                    [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  for (RequestsResult& result : results) {
    result.threads = device.num_threads;
    result.kv_cache_type = kv_cache_type;
    run.requests.push_back(std::move(result));
  }
  return absl::OkStatus();
}

absl::Status BenchSetting(const BenchFlags& flags, int32_t threads,
                          const std::string& kv_cache_type, const Io& io, Run& run) {
  const SteadyClock clock;
  ModelFlags model_flags = flags.model;
  model_flags.cpu.num_threads = threads;
  NIBBLE_RETURN_IF_ERROR(SetKvCacheType(kv_cache_type, model_flags.runner));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(model_flags, {}));
  NIBBLE_ASSIGN_OR_RETURN(const RunnerOptions options,
                          RunnerFor(flags, kv_cache_type, model.config));
  {
    Progress bar = Bar(io, "loading");
    LoadEvents events;
    events.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
    NIBBLE_RETURN_IF_ERROR(OfModel(LoadWeights(model, options, events)));
  }
  if (run.model.is_null()) run.device = model.backend->Info();
  run.model = ModelJson(flags, model, KvBytesPerToken(model.config, options.kv_cache_type));
  return flags.requests > 0
             ? BenchEngine(flags, kv_cache_type, model, clock, io, run)
             : BenchTests(flags, kv_cache_type, model_flags.cpu, model, clock, io, run);
}

void PrintEngineRun(const BenchFlags& flags, const Json& machine, const Run& run, const Io& io) {
  if (flags.output == OutputFormat::kJson) {
    const Json json = {
        {"machine", machine}, {"model", run.model}, {"requests", RequestsJson(run.requests)}};
    PrintJson(io.out, json, 2);
  } else {
    PrintRequests(flags.requests, run.requests, io.out);
  }
}

absl::Status BenchAll(const BenchFlags& flags, const Json& earlier, const Io& io) {
  Run run;
  for (const int32_t threads : flags.threads) {
    for (const std::string& kv_cache_type : TypesToRun(flags)) {
      NIBBLE_RETURN_IF_ERROR(BenchSetting(flags, threads, kv_cache_type, io, run));
    }
  }
  const Json machine = BenchMachineJson(run.device, run.peaks);
  if (flags.requests > 0) {
    PrintEngineRun(flags, machine, run, io);
    return absl::OkStatus();
  }
  Json json = BenchJson(machine, run.model, run.results);
  const Json comparison = earlier.is_null() ? Json() : CompareBench(json, earlier);
  if (flags.output == OutputFormat::kJson) {
    if (!comparison.is_null()) json["compare"] = comparison;
    PrintJson(io.out, json, 2);
    return absl::OkStatus();
  }
  PrintBenchTable(machine, run.results, io.out);
  if (!comparison.is_null()) PrintComparison(comparison, flags.compare, io.out);
  return absl::OkStatus();
}

}  // namespace

void AddBenchFlags(Flags& flags, BenchFlags& bench) {
  AddModelFlag(flags, bench.model);
  flags.Add("--prompt-tokens", bench.prompt_tokens, "Prompt lengths; 0: no prefill test")
      ->default_str("512");
  flags.Add("--context", bench.context,
            "Tokens in the cache when decoding begins; default: the prompt lengths");
  flags.Add("--generate-tokens", bench.generate_tokens, "Tokens decoded; 0: only prefill")
      ->check(CLI::Range(0, 1 << 20));
  flags.Add("--batch", bench.batch, "Sequences run together, such as 1,8,32")->default_str("1");
  flags
      .Add("--threads", bench.threads, "CPU threads; 0: one a hardware thread this process may use")
      ->default_str("0");
  flags.Add("--kv-cache-type", bench.kv_cache_type, "Types of the KV cache: f16, bf16, int8, fp8");
  // Lists; of the same names other commands take one value.
  for (const char* name :
       {"--prompt-tokens", "--context", "--batch", "--threads", "--kv-cache-type"}) {
    flags.SetTwin(name, Flags::Twin(absl::StrCat("--bench-", name + 2)));
  }
  flags.Add("--repeat", bench.repeat, "Times every test is run")->check(CLI::Range(1, 1000));
  flags
      .Add("--requests", bench.requests,
           "Instead: N requests of mixed lengths, up to --prompt-tokens and --generate-tokens, "
           "through the engine, --batch at a time, batched continuously and statically")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 16));
  AddDeviceFlag(flags, bench.model);
  AddArithmeticFlags(flags, bench.model);
  AddBlockSizeFlag(flags, bench.model);
  flags
      .Add("--max-batch-tokens", bench.model.runner.max_batch_tokens,
           "Tokens of one prefill step, over all sequences")
      ->check(CLI::Range(1, 1 << 16));
  flags.Add("--no-roofline", bench.no_roofline,
            "Do not measure the machine's limits first (about a second)");
  flags.Add("--compare", bench.compare, "Print ratios to an earlier run, a file of --output json")
      ->type_name("FILE");
  AddOutputFlag(flags, bench.output);
}

int RunBench(const BenchFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  Json earlier;
  if (!flags.compare.empty()) {
    absl::StatusOr<Json> read = ReadBenchJson(flags.compare);
    if (!read.ok()) return WrongUsage(io, read.status());
    earlier = *std::move(read);
  }
  const absl::Status ran = BenchAll(flags, earlier, io);
  return ran.ok() ? kExitOk : ExitWith(io, ran);
}

}  // namespace nibble
