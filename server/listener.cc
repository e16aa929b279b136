#include "server/listener.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/base/status_macros.h"
#include "server/call_counter.h"

namespace nibble {
namespace {

using grpc::experimental::ExternalConnectionAcceptor;
using ExternalConnectionType = grpc::ServerBuilder::experimental_type::ExternalConnectionType;

constexpr int kIdleMs =
    30 * 60 * 1000;  // a forgotten connection gives its descriptor back; clients reconnect
constexpr int kKeepaliveMs = 60 * 1000;  // a dead peer is noticed within this and the timeout
constexpr int kKeepaliveTimeoutMs = 20 * 1000;
constexpr int kMinPingMs =
    10 * 1000;  // clients may ping so often, also without calls (their own minimum)
constexpr int kHandshakeTimeoutMs = 20 * 1000;
constexpr int kSpareStreams =
    64;  // per connection above admission: refusals, health, metadata calls
constexpr size_t kTransportBytes = 256 << 20;  // for gRPC's own buffers, beyond the requests
constexpr int kSyncThreads = 16;               // only reflection runs on threads of its own

// Linking the reflection library puts its plugin into every builder of the process, unless the
// linker drops a library nothing refers to: exactly one plugin, or none, whatever the linker did.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool wanted) : wanted_(wanted) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return plugin->name() == "proto_server_reflection";
                                  }),
                   plugins->end());
    if (wanted_) {
      plugins->push_back(std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>());
    }
  }

 private:
  bool wanted_;
};

void SetLimits(const ServerLimits& limits, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(limits.max_request_bytes);
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.max_metadata_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              limits.max_open_requests + kSpareStreams);
  // The engine keeps deadlines and says the stage; gRPC's own timer would end the call first, with
  // nothing but the code.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 0);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  grpc::ResourceQuota quota("nibble");
  quota.Resize(static_cast<size_t>(limits.max_queued_bytes) + kTransportBytes);
  quota.SetMaxThreads(kSyncThreads);
  builder->SetResourceQuota(quota);
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
}

void SetKeepalive(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingMs);
}

// Takes out what is in it first, which gRPC asks for. REQUIRES its server shut down.
void ReleaseQueue(grpc_completion_queue* queue) {
  grpc_completion_queue_shutdown(queue);
  const gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
  while (grpc_completion_queue_next(queue, never, nullptr).type != GRPC_QUEUE_SHUTDOWN) {
  }
  grpc_completion_queue_destroy(queue);
}

}  // namespace

Listener::Listener(std::unique_ptr<grpc::Server> server, int32_t port)
    : server_(std::move(server)), port_(port) {}

Listener::~Listener() { ShutDown(Duration::zero()); }

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(
    ListenSocket socket, std::shared_ptr<grpc::ServerCredentials> credentials, ServerParts& parts,
    const Options& options) {
  grpc::ServerBuilder builder;
  SetLimits(parts.options.limits, &builder);
  SetKeepalive(&builder);
  std::shared_ptr<ExternalConnectionAcceptor> entrance =
      builder.experimental().AddExternalConnectionAcceptor(ExternalConnectionType::FROM_FD,
                                                           std::move(credentials));
  std::vector<std::string> names;
  for (const auto& [name, service] : options.services) {
    builder.RegisterService(service);
    names.push_back(name);
  }
  if (options.reflection) names.emplace_back("grpc.reflection.v1alpha.ServerReflection");
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(CreateCallCounter(parts.metrics, parts.clock, names));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  builder.SetOption(std::make_unique<ReflectionOption>(options.reflection));

  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr)
    return absl::InternalError("gRPC did not start a server; its log lines have the reason");
  std::unique_ptr<Listener> listener(new Listener(std::move(server), socket.port()));
  const int listener_fd = socket.fd();
  NIBBLE_ASSIGN_OR_RETURN(
      listener->acceptor_,
      Acceptor::Start(std::move(socket), options.max_connections, parts.log,
                      [entrance, listener_fd](int fd) {
                        ExternalConnectionAcceptor::NewConnectionParameters connection;
                        connection.listener_fd = listener_fd;
                        connection.fd = fd;
                        entrance->HandleNewConnection(&connection);
                      }));
  return listener;
}

// grpc::Server::Shutdown would do the same, but waits for its end with a deadline that nothing can
// bring forward. Underneath, in the library that it wraps, the beginning is a call of its own and
// may come twice.
void Listener::TurnAway() {
  if (server_ == nullptr || turned_away_ != nullptr) return;
  acceptor_->Stop();  // first: gRPC destroys what it hands sockets to
  turned_away_ = grpc_completion_queue_create_for_next(nullptr);
  grpc_server_shutdown_and_notify(server_->c_server(), turned_away_, nullptr);
}

void Listener::ShutDown(Duration grace) {
  if (server_ == nullptr) return;
  if (acceptor_ != nullptr) acceptor_->Stop();
  server_->Shutdown(std::chrono::system_clock::now() +
                    std::chrono::duration_cast<std::chrono::system_clock::duration>(grace));
  if (turned_away_ != nullptr) ReleaseQueue(std::exchange(turned_away_, nullptr));
  server_.reset();
}

}  // namespace nibble
