#include "server/server.h"

#include <grpcpp/impl/service_type.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"
#include "server/credentials.h"
#include "server/descriptor_limit.h"
#include "server/health.h"
#include "server/listener.h"
#include "server/metrics_port.h"
#include "server/open_calls.h"
#include "server/services.h"
#include "server/stream_writer.h"
#include "server/watchdog.h"

namespace nibble {
namespace {

using Phase = ServingState::Phase;

// What is still being written when the last request has ended gets so long to arrive.
constexpr Duration kFlushGrace = std::chrono::seconds(1);

// Operators and their tools; of kOtherDescriptors.
constexpr int32_t kMaxAdminConnections = 64;

// In the order in which LiveServer makes them.
constexpr const char* kServices[] = {"nibble.v1.GenerationService", "nibble.v1.TokenizerService",
                                     "nibble.v1.ModelService"};

absl::Status CheckPositive(absl::string_view flag, int64_t value) {
  if (value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " is ", value, ", needs at least 1"));
}

absl::Status Check(const ServerOptions& options) {
  const ServerLimits& limits = options.limits;
  NIBBLE_RETURN_IF_ERROR(
      CheckPositive("--max-running and --max-waiting together", limits.max_open_requests));
  NIBBLE_RETURN_IF_ERROR(
      CheckPositive("--max-queued-prompt-tokens", limits.max_queued_prompt_tokens));
  NIBBLE_RETURN_IF_ERROR(CheckPositive("--max-queued-bytes", limits.max_queued_bytes));
  NIBBLE_RETURN_IF_ERROR(CheckPositive("--max-request-bytes", limits.max_request_bytes));
  NIBBLE_RETURN_IF_ERROR(
      CheckPositive("--max-stream-buffer-bytes", limits.max_stream_buffer_bytes));
  NIBBLE_RETURN_IF_ERROR(CheckPositive("--max-connections", limits.max_connections));
  NIBBLE_RETURN_IF_ERROR(CheckPositive("--max-metadata-bytes", limits.max_metadata_bytes));
  if (options.drain_timeout < Duration::zero()) {
    return absl::InvalidArgumentError("--drain-timeout is negative, needs 0s or more");
  }
  if (options.turn_away_after < Duration::zero()) {
    return absl::InvalidArgumentError("turn_away_after is negative, needs 0s or more");
  }
  if (options.stall_timeout <= Duration::zero()) {
    return absl::InvalidArgumentError("--stall-timeout is not above 0s");
  }
  return absl::OkStatus();
}

class LiveServer final : public Server {
 public:
  LiveServer(const ServerOptions& options, const Clock& clock, std::unique_ptr<Metrics> metrics)
      : options_(options),
        clock_(clock),
        log_(options.log != nullptr ? options.log : Log::ToStderr(LogLevel::kInfo)),
        metrics_(std::move(metrics)),
        admission_(options_.limits),
        tokenizer_admission_(options_.limits),
        parts_{.options = options_,
               .clock = clock_,
               .log = *log_,
               .metrics = *metrics_,
               .admission = admission_,
               .state = state_,
               .request_ids = request_ids_,
               .open_calls = open_calls_,
               .tokenizer_admission = tokenizer_admission_,
               .stream_writer = stream_writer_},
        health_(Health::Create()) {}

  ~LiveServer() override {
    watchdog_.reset();
    ShutDown(state_.phase() == Phase::kFailed ? kFlushGrace : Duration::zero());
    metrics_->SetLoadSource(nullptr);
  }

  absl::Status Listen();

  BoundPorts ports() const override { return ports_; }
  EngineObserver* observer() override { return metrics_->observer(); }
  void ReportStartupPhase(absl::string_view phase, Duration took) override {
    metrics_->ReportStartupPhase(phase, took);
    log_->Info("startup_phase", {{"phase", phase}, {"seconds", Seconds(took)}});
  }
  void Serve(std::unique_ptr<Engine> engine, const ModelInfo& model) override;
  void Drain() override;
  absl::Status WaitUntilDrained() override {
    const absl::Status status = watchdog_->WaitUntilOver();
    return status;
  }

 private:
  absl::StatusOr<std::unique_ptr<Listener>> ListenOn(const std::string& address,
                                                     absl::string_view flag,
                                                     const Listener::Options& options);
  void ShowHealth(bool ready, bool alive);
  void TurnAway();
  void ShutDown(Duration grace);

  const ServerOptions options_;
  const Clock& clock_;
  const std::shared_ptr<Log> log_;
  const std::unique_ptr<Metrics> metrics_;
  Admission admission_;
  Admission tokenizer_admission_;
  StreamWriter stream_writer_;  // the engine's sinks post to it to the last
  ServingState state_;          // destroys the engine before the metrics it reports to
  RequestIds request_ids_;
  OpenCalls open_calls_;
  ServerParts parts_;
  const std::unique_ptr<Health> health_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  BoundPorts ports_;
  std::unique_ptr<MetricsPort> metrics_port_;
  std::unique_ptr<Listener> public_;
  std::unique_ptr<Listener> admin_;
  std::unique_ptr<Watchdog> watchdog_;
};

absl::StatusOr<std::unique_ptr<Listener>> LiveServer::ListenOn(const std::string& address,
                                                               absl::string_view flag,
                                                               const Listener::Options& options) {
  NIBBLE_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ServerCredentials> credentials,
                          LoadCredentials(options_.tls));
  NIBBLE_ASSIGN_OR_RETURN(ListenSocket socket, ListenSocket::Bind(address, flag));
  if (!socket.loopback() && options_.tls.cert.empty()) {
    log_->Warning(
        "listening_without_tls",
        {{"flag", flag},
         {"address", address},
         {"advice",
          "anyone who reaches this port can read and use it; set --tls-cert and --tls-key"}});
  }
  return Listener::Start(std::move(socket), std::move(credentials), parts_, options);
}

absl::Status LiveServer::Listen() {
  NIBBLE_ASSIGN_OR_RETURN(const int32_t max_connections,
                          MakeRoomForConnections(options_.limits.max_connections, *log_));
  services_.push_back(CreateGenerationService(parts_));
  services_.push_back(CreateTokenizerService(parts_));
  services_.push_back(CreateModelService(parts_));
  services_.push_back(CreateAdminService(parts_, [this] { Drain(); }));
  ShowHealth(/*ready=*/false, /*alive=*/true);
  if (!options_.metrics_listen.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(ListenSocket socket,
                            ListenSocket::Bind(options_.metrics_listen, "--metrics-listen"));
    NIBBLE_ASSIGN_OR_RETURN(metrics_port_, MetricsPort::Start(std::move(socket), *log_, [this] {
                              return metrics_->Scrape();
                            }));
    ports_.metrics = metrics_port_->port();
  }
  watchdog_ = Watchdog::Start(
      parts_, Watchdog::Events{
                  .health = [this](bool ready, bool alive) { ShowHealth(ready, alive); },
                  .turn_away = [this] { TurnAway(); },
                  .shut_down = [this] { ShutDown(kFlushGrace); },
              });
  if (!options_.admin_listen.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(
        admin_, ListenOn(options_.admin_listen, "--admin-listen",
                         {.reflection = options_.reflection,
                          .max_connections = kMaxAdminConnections,
                          .services = {{"nibble.v1.AdminService", services_[3].get()},
                                       {"grpc.health.v1.Health", health_->service()}}}));
    ports_.admin = admin_->port();
  }
  NIBBLE_ASSIGN_OR_RETURN(public_,
                          ListenOn(options_.listen, "--listen",
                                   {.reflection = options_.reflection,
                                    .max_connections = max_connections,
                                    .services = {{kServices[0], services_[0].get()},
                                                 {kServices[1], services_[1].get()},
                                                 {kServices[2], services_[2].get()},
                                                 {"grpc.health.v1.Health", health_->service()}}}));
  ports_.grpc = public_->port();
  log_->Info("listening", {{"grpc", ports_.grpc},
                           {"metrics", ports_.metrics},
                           {"admin", ports_.admin},
                           {"tls", !options_.tls.cert.empty()},
                           {"client_certificates", !options_.tls.client_ca.empty()}});
  return absl::OkStatus();
}

void LiveServer::ShowHealth(bool ready, bool alive) {
  health_->Set("", ready);
  for (const char* service : kServices) health_->Set(service, ready);
  if (!options_.model_name.empty()) health_->Set(options_.model_name, ready);
  health_->Set(kLiveness, alive);
}

void LiveServer::Serve(std::unique_ptr<Engine> engine, const ModelInfo& model) {
  ModelInfo named = model;
  if (!options_.model_name.empty()) named.name = options_.model_name;
  Engine* const borrowed = engine.get();
  state_.Serve(std::move(engine), named);
  metrics_->SetModel(named);
  metrics_->SetLoadSource([borrowed] { return borrowed->Load(); });
  if (state_.phase() == Phase::kServing) {
    log_->Info("serving", {{"model", named.name}, {"backend", named.backend}});
  } else {
    borrowed->Drain(Duration::zero());  // told to leave while loading
  }
  watchdog_->LookNow();
}

void LiveServer::Drain() {
  if (!state_.StartDrain()) return;
  log_->Info("draining", {{"open_requests", admission_.counts().open_requests},
                          {"timeout_seconds", Seconds(options_.drain_timeout)}});
  if (Engine* engine = state_.engine(); engine != nullptr) engine->Drain(options_.drain_timeout);
  watchdog_->LookNow();
}

// The operators' port stays: whoever watches the drain asks there.
void LiveServer::TurnAway() {
  if (public_ == nullptr) return;
  public_->TurnAway();
  log_->Info("turned_away", {{"open_requests", admission_.counts().open_requests},
                             {"detail", "the port is closed and clients were told to go"}});
}

void LiveServer::ShutDown(Duration grace) {
  health_->EndWatches();
  if (public_ != nullptr) public_->ShutDown(grace);
  if (admin_ != nullptr) admin_->ShutDown(grace);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const Clock& clock) {
  NIBBLE_RETURN_IF_ERROR(Check(options));
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<Metrics> metrics,
                          Metrics::Create(options.model_name, options.metrics_alias));
  auto server = std::make_unique<LiveServer>(options, clock, std::move(metrics));
  NIBBLE_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace nibble
