#include "cli/serve.h"

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/hints.h"
#include "cli/local_model.h"
#include "cli/output.h"
#include "cli/port_file.h"
#include "cli/progress.h"
#include "cli/shutdown.h"
#include "cli/signals.h"
#include "cli/version.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "engine/folder_record.h"
#include "engine/weights/weight_source.h"

namespace nibble {
namespace {

// How the weights came, and what became of the cache.
void LogWeights(const MatrixReport& report, Log& log) {
  log.Info("weights", {{"from", report.from_cache ? "packed cache" : "model file"},
                       {"ms", Seconds(report.took) * 1e3},
                       {"threads", report.threads},
                       {"bytes", report.bytes},
                       {"packed_cache", report.cache.empty() ? "off" : report.cache}});
  if (!report.cache.empty() && !report.from_cache && report.written.ok()) {
    log.Info("packed_cache_written",
             {{"file", report.cache}, {"ms", Seconds(report.write_took) * 1e3}});
  }
}

LoadEvents ServeLoadEvents(Server& server, Log& log, Progress& progress) {
  LoadEvents events;
  events.phase = [&server](absl::string_view phase, Duration took) {
    server.ReportStartupPhase(phase, took);
  };
  events.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  events.weights = [&log](const MatrixReport& report) { LogWeights(report, log); };
  events.note = [&log](const std::string& note) { log.Warning("note", {{"message", note}}); };
  return events;
}

// The type that holds most bytes, and what all tensors hold.
void DescribeWeights(const std::vector<TensorReport>& tensors, ModelInfo& info) {
  std::map<std::string, int64_t> bytes;
  for (const TensorReport& tensor : tensors) {
    bytes[tensor.file_type] += tensor.file_bytes;
    info.num_parameters += std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1},
                                           std::multiplies<int64_t>());
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != bytes.end()) info.weights_format = most->first;
}

// How the model was quantized; what cannot be read of that keeps nobody from serving it.
std::optional<QuantizeProvenance> QuantizedBy(const ModelFile& file, Log& log) {
  absl::StatusOr<std::optional<QuantizeProvenance>> quantized = ProvenanceOf(file);
  if (quantized.ok()) return *std::move(quantized);
  log.Warning("note", {{"message", std::string(quantized.status().message())}});
  return std::nullopt;
}

ModelInfo ModelInfoOf(const LocalModel& model, const ServerOptions& options, Log& log) {
  const DeviceInfo device = model.backend->Info();
  ModelInfo info;
  info.name = options.model_name;
  info.architecture = model.config.architecture;
  DescribeWeights(model.file->Source(model.config)->Report(), info);
  info.weights_bytes = model.runner->bytes().weights;
  info.kv_cache_bytes = model.runner->bytes().kv_cache;
  info.context_length = model.config.context_length;
  info.quantized = QuantizedBy(*model.file, log);
  if (model.chat_template != nullptr)
    info.chat_template = std::string(model.chat_template->source());
  info.backend = absl::StrCat(device.name, " ", device.isa, ", ", device.num_threads, " threads");
  if (device.num_numa_nodes > 1) {
    absl::StrAppend(&info.backend, " on ", device.num_numa_nodes, " NUMA nodes");
  }
  return info;
}

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(LocalModel& model, const ServeFlags& flags,
                                                   const Clock& clock, EngineObserver* observer) {
  EngineParts parts;
  parts.runner = std::move(model.runner);
  parts.tokenizer = std::move(model.tokenizer);
  parts.chat_template = std::move(model.chat_template);
  parts.clock = &clock;
  parts.observer = observer;
  return OfModel(Engine::Create(std::move(parts), EngineOptionsOf(flags)));
}

absl::StatusOr<LocalModel> Load(const ServeFlags& flags, Server& server, Log& log, const Io& io) {
  Progress progress(io.err, io.err_is_terminal, "loading",
                    [&log](const std::string& line) { log.Info("progress", {{"message", line}}); });
  const SteadyClock clock;
  progress.QuietFor(kQuietLoading, clock);
  const LoadEvents events = ServeLoadEvents(server, log, progress);
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags.model, events));
  log.Info("device", {{"chosen", model.backend->Info().why}});
  NIBBLE_RETURN_IF_ERROR(LoadToGenerate(model, RunnerOptionsOf(flags), events));
  return model;
}

// From a loaded model to a server that says SERVING.
absl::Status StartServing(LocalModel& model, const ServeFlags& flags, const Clock& clock,
                          Server& server, Log& log) {
  const ServerOptions options = ServerOptionsOf(flags);
  const ModelInfo info = ModelInfoOf(model, options, log);
  const Instant start = clock.Now();
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                          MakeEngine(model, flags, clock, server.observer()));
  server.ReportStartupPhase("engine", clock.Now() - start);
  log.Info("loaded", {{"parameters", info.num_parameters},
                      {"weights_format", info.weights_format},
                      {"weights_bytes", info.weights_bytes},
                      {"kv_cache_bytes", info.kv_cache_bytes}});
  server.Serve(std::move(engine), info);
  return absl::OkStatus();
}

absl::Status Serve(const ServeFlags& flags, const std::shared_ptr<Log>& shared_log,
                   Shutdown& shutdown, const Io& io) {
  Log& log = *shared_log;
  const SteadyClock clock;
  ServerOptions options = ServerOptionsOf(flags);
  options.log = shared_log;
  log.Info("starting", {{"version", kVersion}, {"file", flags.model.model}});
  LocalModel model;  // its backend outlives the engine, which the server owns
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Start(options, clock));
  NIBBLE_ASSIGN_OR_RETURN(model, Load(flags, *server, log, io));
  NIBBLE_RETURN_IF_ERROR(StartServing(model, flags, clock, *server, log));
  const Shutdown::Serving serving(shutdown, *server);
  if (!flags.port_file.empty()) {
    NIBBLE_RETURN_IF_ERROR(WritePortFile(flags.port_file, server->ports()));
  }
  if (io.err_is_terminal) {
    io.err << ServingHints(options, server->ports(), FindHintContext()) << std::flush;
  }
  const absl::Status drained = server->WaitUntilDrained();
  log.Info("stopped", {{"status", drained.ToString()}});
  return drained;
}

}  // namespace

int RunServe(const ServeFlags& flags, const nlohmann::ordered_json& config, const Io& io) {
  if (flags.print_config) {
    PrintJson(io.out, config, 2);
    return kExitOk;
  }
  if (const absl::Status status = Validate(flags); !status.ok()) return WrongUsage(io, status);
  // Whoever read the log may leave first (`2>&1 | tee`, and Ctrl-C reaches both): a line that
  // cannot be written is lost, the calls are not.
  std::signal(SIGPIPE, SIG_IGN);
  Shutdown shutdown;
  // The signals are blocked before any other thread starts, the log's included.
  const SignalWaiter signals([&shutdown](int signal) { shutdown.Hear(signal); });
  const std::shared_ptr<Log> log = Log::ToStderr(flags.log_level);
  shutdown.LogTo(log);
  const absl::Status status = Serve(flags, log, shutdown, io);
  if (status.ok() || io.err_is_terminal) return status.ok() ? kExitOk : ExitWith(io, status);
  log->Error("failed", {{"code", absl::StatusCodeToString(status.code())},
                        {"message", std::string(status.message())}});
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailure;
}

}  // namespace nibble
