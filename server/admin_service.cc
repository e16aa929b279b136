#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <utility>

#include "engine/engine.h"
#include "nibble/v1/admin.grpc.pb.h"
#include "server/finish_unary.h"
#include "server/services.h"

namespace nibble {
namespace {

v1::LogLevel ToProto(LogLevel level) {
  return static_cast<v1::LogLevel>(static_cast<int>(level) + 1);
}

static_assert(v1::LOG_LEVEL_DEBUG == static_cast<int>(LogLevel::kDebug) + 1);
static_assert(v1::LOG_LEVEL_OFF == static_cast<int>(LogLevel::kOff) + 1);

class AdminService final : public v1::AdminService::CallbackService {
 public:
  AdminService(ServerParts& parts, std::function<void()> drain)
      : parts_(parts), drain_(std::move(drain)) {}

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest*,
                                  v1::DrainResponse* response) override {
    parts_.log.Info("drain_requested", {{"peer", context->peer()}});
    drain_();
    response->set_open_requests(parts_.admission.counts().open_requests);
    response->set_drain_timeout_seconds(Seconds(parts_.options.drain_timeout));
    return FinishUnary(context, parts_, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override {
    if (request->level() < v1::LOG_LEVEL_DEBUG || request->level() > v1::LOG_LEVEL_OFF) {
      return FinishUnary(
          context, parts_,
          FieldError("level", "is missing or unknown, needs LOG_LEVEL_DEBUG to _OFF"));
    }
    response->set_previous(ToProto(parts_.log.level()));
    const auto level = static_cast<LogLevel>(request->level() - 1);
    parts_.log.set_level(level);
    parts_.log.Info("log_level_set", {{"to", LogLevelName(level)}, {"peer", context->peer()}});
    return FinishUnary(context, parts_, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* DumpState(grpc::CallbackServerContext* context,
                                      const v1::DumpStateRequest*,
                                      v1::DumpStateResponse* response) override {
    if (const Engine* engine = parts_.state.engine(); engine != nullptr)
      response->set_state(engine->DumpState());
    return FinishUnary(context, parts_, absl::OkStatus());
  }

 private:
  ServerParts& parts_;
  const std::function<void()> drain_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateAdminService(ServerParts& parts, std::function<void()> drain) {
  return std::make_unique<AdminService>(parts, std::move(drain));
}

}  // namespace nibble
