#include "server/call_counter.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/convert.h"

namespace nibble {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;

constexpr char kUnknown[] = "unknown";

// "/nibble.v1.GenerationService/Generate" and so on.
std::set<std::string> MethodsOf(const std::vector<std::string>& services) {
  std::set<std::string> methods;
  for (const std::string& name : services) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    if (service == nullptr) continue;
    for (int i = 0; i < service->method_count(); ++i) {
      methods.insert(absl::StrCat("/", name, "/", service->method(i)->name()));
    }
  }
  return methods;
}

// gRPC answers UNIMPLEMENTED, without a message, for bytes that are not the method's request: a
// client would take the method for missing.
void CorrectUnreadable(InterceptorBatchMethods* methods) {
  const grpc::Status status = methods->GetSendStatus();
  if (status.error_code() != grpc::StatusCode::UNIMPLEMENTED || !status.error_message().empty())
    return;
  methods->ModifySendStatus(
      grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                   "the request cannot be read: it is no message of this method, or one of its "
                   "strings is not UTF-8"));
}

class CallCounter final : public Interceptor {
 public:
  CallCounter(Metrics& metrics, const Clock& clock, std::string method)
      : metrics_(metrics), clock_(clock), method_(std::move(method)), arrival_(clock.Now()) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      if (method_ != kUnknown) CorrectUnreadable(methods);
      const grpc::StatusCode code = methods->GetSendStatus().error_code();
      metrics_.CallHandled(method_, CodeName(code), clock_.Now() - arrival_);
    }
    methods->Proceed();
  }

 private:
  Metrics& metrics_;
  const Clock& clock_;
  const std::string method_;
  const Instant arrival_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Metrics& metrics, const Clock& clock, std::set<std::string> methods)
      : metrics_(metrics), clock_(clock), methods_(std::move(methods)) {}
  Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    const auto known = methods_.find(info->method() != nullptr ? info->method() : "");
    return new CallCounter(metrics_, clock_, known != methods_.end() ? *known : kUnknown);
  }

 private:
  Metrics& metrics_;
  const Clock& clock_;
  const std::set<std::string> methods_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CreateCallCounter(
    Metrics& metrics, const Clock& clock, const std::vector<std::string>& services) {
  return std::make_unique<Factory>(metrics, clock, MethodsOf(services));
}

}  // namespace nibble
