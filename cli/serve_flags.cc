#include "cli/serve_flags.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace nibble {
namespace {

constexpr int32_t kMaxCount = 1 << 20;  // of requests, connections: far above any machine's use
constexpr int64_t kMaxBytes = int64_t{1} << 40;

void AddListenFlags(Flags& flags, ServeFlags& serve) {
  ServerOptions& server = serve.server;
  flags.Add("--listen", server.listen, "Address of the gRPC port; port 0: a free one")
      ->type_name("HOST:PORT");
  flags
      .Add("--metrics-listen", server.metrics_listen,
           "Address of http://.../metrics; off: no metrics port")
      ->type_name("HOST:PORT");
  flags
      .Add("--admin-listen", server.admin_listen,
           "Address of AdminService (drain, log level, dump); none unless given")
      ->type_name("HOST:PORT");
  flags.Add("--tls-cert", server.tls.cert, "PEM chain of the server; needs --tls-key")
      ->type_name("FILE");
  flags.Add("--tls-key", server.tls.key, "PEM key of the server")->type_name("FILE");
  flags
      .Add("--tls-client-ca", server.tls.client_ca,
           "PEM; clients must present a certificate signed by it (mTLS)")
      ->type_name("FILE");
  flags
      .Add("--port-file", serve.port_file,
           "Written once serving: {\"grpc\":N,\"metrics\":N,\"admin\":N}, 0 for a port that is off")
      ->type_name("FILE");
}

void AddLimitFlags(Flags& flags, ServeFlags& serve) {
  ServerLimits& limits = serve.server.limits;
  flags.Add("--max-running", serve.engine.max_running, "Sequences in the batch at once")
      ->check(CLI::Range(1, 4096));
  flags
      .Add("--max-waiting", serve.max_waiting,
           "Requests queued beyond those; more are refused with RESOURCE_EXHAUSTED")
      ->check(CLI::Range(0, kMaxCount));
  flags
      .Add("--max-queued-prompt-tokens", limits.max_queued_prompt_tokens,
           "Prompt tokens accepted but not yet prefilled")
      ->check(CLI::Range(int64_t{1}, kMaxBytes));
  flags.Add("--max-queued-bytes", limits.max_queued_bytes, "Request bytes held by open requests")
      ->check(CLI::Range(int64_t{1}, kMaxBytes));
  flags.Add("--max-request-bytes", limits.max_request_bytes, "Bytes of one request")
      ->check(CLI::Range(1024, 1 << 30));
  flags
      .Add("--max-stream-buffer-bytes", limits.max_stream_buffer_bytes,
           "Undelivered bytes of one slow stream before its sequence pauses")
      ->check(CLI::Range(1024, 1 << 30));
  flags.Add("--max-connections", limits.max_connections, "Client connections")
      ->check(CLI::Range(1, kMaxCount));
  flags.Add("--max-metadata-bytes", limits.max_metadata_bytes, "Header bytes of one call")
      ->check(CLI::Range(1024, 1 << 20));
}

void AddBehaviourFlags(Flags& flags, ServeFlags& serve) {
  flags.Add("--model-name", serve.server.model_name,
            "What clients and metrics call the model; default: the file's name");
  flags.Add("--drain-timeout", serve.server.drain_timeout,
            "After SIGTERM, running calls may finish for so long, then end as DRAINED");
  flags.Add("--stall-timeout", serve.server.stall_timeout,
            "Work pending and not a layer of it done for so long: health says NOT_SERVING");
  flags.Add("--pause-timeout", serve.engine.pause_timeout,
            "A sequence whose client reads nothing ends after this");
  flags.Add("--no-prefix-cache", serve.no_prefix_cache, "Do not reuse the cache of shared prompts");
  flags.Add("--no-reflection", serve.no_reflection, "No gRPC reflection service");
  flags
      .Add("--metrics-alias", serve.server.metrics_alias,
           "vllm: export the gauges routers read under their vllm: names as well")
      ->check(CLI::IsMember({"", "vllm"}))
      ->type_name("NAME");
  flags.Add("--seed", serve.engine.seed,
            "Of seeds drawn for requests without one; 0: from the system");
  flags.AddChoice<LogLevel>("--log-level", serve.log_level,
                            {{"debug", LogLevel::kDebug},
                             {"info", LogLevel::kInfo},
                             {"warning", LogLevel::kWarning},
                             {"error", LogLevel::kError},
                             {"off", LogLevel::kOff}},
                            "Least severe log line that is written");
}

}  // namespace

void AddServeFlags(Flags& flags, ServeFlags& serve) {
  AddModelFlag(flags, serve.model);
  AddListenFlags(flags, serve);
  AddDeviceFlags(flags, serve.model);
  AddCacheFlags(flags, serve.model);
  AddLimitFlags(flags, serve);
  AddBehaviourFlags(flags, serve);
}

absl::Status Validate(const ServeFlags& serve) {
  if (absl::Status status = CheckModelGiven(serve.model.model); !status.ok()) return status;
  const TlsFiles& tls = serve.server.tls;
  if (tls.cert.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(tls.cert.empty() ? "--tls-key" : "--tls-cert",
                                                   ": found alone, needed with ",
                                                   tls.cert.empty() ? "--tls-cert" : "--tls-key"));
  }
  if (!tls.client_ca.empty() && tls.cert.empty()) {
    return absl::InvalidArgumentError(
        "--tls-client-ca: found alone, needed with --tls-cert and --tls-key");
  }
  if (serve.engine.max_running > serve.model.runner.max_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-running: found ", serve.engine.max_running, ", needed at most --max-batch-tokens ",
        serve.model.runner.max_batch_tokens, ": every running sequence takes a token of a step"));
  }
  if (serve.engine.pause_timeout <= Duration::zero()) {
    return absl::InvalidArgumentError("--pause-timeout: found 0s, needed more");
  }
  return absl::OkStatus();
}

ServerOptions ServerOptionsOf(const ServeFlags& serve) {
  ServerOptions options = serve.server;
  if (options.metrics_listen == "off") options.metrics_listen.clear();
  options.reflection = !serve.no_reflection;
  if (options.model_name.empty()) options.model_name = ModelNameOf(serve.model.model);
  options.pause_timeout = serve.engine.pause_timeout;
  options.limits.max_open_requests = serve.engine.max_running + serve.max_waiting;
  return options;
}

EngineOptions EngineOptionsOf(const ServeFlags& serve) {
  EngineOptions options = serve.engine;
  options.max_batch_tokens = serve.model.runner.max_batch_tokens;
  options.prefix_cache = !serve.no_prefix_cache;
  return options;
}

RunnerOptions RunnerOptionsOf(const ServeFlags& serve) {
  RunnerOptions options = serve.model.Runner();
  options.max_sequences = serve.engine.max_running;
  return options;
}

std::string ModelNameOf(const std::string& path) {
  absl::string_view name = path;
  while (name.size() > 1 && absl::ConsumeSuffix(&name, "/")) {  // a folder
  }
  const size_t slash = name.find_last_of('/');
  if (slash != absl::string_view::npos) name.remove_prefix(slash + 1);
  absl::ConsumeSuffix(&name, ".gguf");
  return std::string(name);
}

}  // namespace nibble
