// The gRPC server: transport, admission, health, metrics, drain. It listens before the model is
// loaded (health says NOT_SERVING, calls get UNAVAILABLE with RetryInfo), serves once given an
// engine, and drains when told.
//
// Life: Start -> Serve(engine) -> [Drain] -> WaitUntilDrained -> destruction. Start binds every
// port or fails.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine.h"
#include "engine/observer.h"
#include "engine/quantize_record.h"

namespace nibble {

struct TlsFiles {
  std::string cert;       // PEM chain; empty: plaintext
  std::string key;        // PEM
  std::string client_ca;  // PEM; set: clients must present a certificate signed by it (mTLS)
};

// Each bound has its reason beside it; the defaults suit a small machine.
struct ServerLimits {
  int32_t max_open_requests =
      256;  // running + waiting: bounds everything a client can make us hold
  int64_t max_queued_prompt_tokens = 1
                                     << 20;  // work accepted but not yet prefilled: bounds the wait
  int64_t max_queued_bytes = 64LL << 20;     // request bytes held by open requests
  int32_t max_request_bytes = 16 << 20;      // one message; a prompt of 1M tokens fits
  int32_t max_stream_buffer_bytes =
      64 << 10;                    // undelivered by one slow client before its sequence pauses
  int32_t max_connections = 1024;  // on the public port: file descriptors and buffers
  int32_t max_metadata_bytes = 16 << 10;  // headers of one call
};

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen = "127.0.0.1:9090";  // empty: no metrics port
  std::string admin_listen;                       // empty: no AdminService
  TlsFiles tls;
  bool reflection = true;
  std::string model_name;     // what GetModel, health and metrics call it
  std::string metrics_alias;  // "" or "vllm"
  Duration drain_timeout = std::chrono::seconds(30);
  // Of a drain: for so long calls are refused with RetryInfo, and whoever asks for health hears of
  // it. Then the public port closes and clients are told to go (GOAWAY): one that keeps its
  // connection would come back here, and be refused, until the drain is over.
  Duration turn_away_after = std::chrono::seconds(1);
  Duration stall_timeout =
      std::chrono::seconds(30);  // work pending and not a layer of it done for so long: NOT_SERVING
  Duration pause_timeout =
      std::chrono::seconds(30);  // as the engine's: a call is not aborted before it
  // Called with 1 when a drain cannot end because the engine is stuck: no thread of it can be
  // joined, so the process has to go as it is. Tests put their own here.
  std::function<void(int)> end_process = [](int status) { std::_Exit(status); };
  std::shared_ptr<Log> log;  // null: lines of level info on stderr
  ServerLimits limits;
};

// What ModelService.GetModel tells beyond the engine's own limits.
struct ModelInfo {
  std::string name;
  std::string architecture;
  std::string weights_format;  // "Q4_1"
  int64_t num_parameters = 0;
  int64_t weights_bytes = 0;  // on the device
  int64_t kv_cache_bytes = 0;
  int32_t context_length = 0;                   // the model was trained for
  std::string chat_template;                    // source, "" when none
  std::string backend;                          // "cpu avx512_vnni, 2 threads"
  std::optional<QuantizeProvenance> quantized;  // absent: the file does not tell
};

struct BoundPorts {
  int32_t grpc = 0;
  int32_t metrics = 0;  // 0: off
  int32_t admin = 0;    // 0: off
};

class Server {
 public:
  // INVALID_ARGUMENT names the flag; UNAVAILABLE names the address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const Clock& clock);
  virtual ~Server() = default;

  virtual BoundPorts ports() const = 0;
  // Feeds the metrics; pass it to the engine. Lives as long as the server.
  virtual EngineObserver* observer() = 0;
  // Duration of one start-up phase, for startup_phase_seconds{phase}: "open", "weights",
  // "tokenizer", "engine".
  virtual void ReportStartupPhase(absl::string_view phase, Duration took) = 0;

  // From now on health says SERVING. The engine is owned by the server.
  virtual void Serve(std::unique_ptr<Engine> engine, const ModelInfo& model) = 0;

  // Readiness off, new calls refused and after `turn_away_after` not even taken, running calls
  // finish or end DRAINED within `drain_timeout`.
  // Returns at once; may be called again, and from AdminService.Drain.
  virtual void Drain() = 0;
  // Blocks until a drain has finished, or the engine failed (INTERNAL: exit non-zero). A drain
  // whose engine is stuck ends the process itself (ServerOptions::end_process).
  virtual absl::Status WaitUntilDrained() = 0;
};

}  // namespace nibble
