#include "server/call_counter.h"

#include <grpcpp/grpcpp.h>

#include <string>

#include "server/convert.h"

namespace nibble {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;

class CallCounter final : public Interceptor {
 public:
  CallCounter(Metrics& metrics, const Clock& clock, const char* method)
      : metrics_(metrics), clock_(clock), method_(method), arrival_(clock.Now()) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      metrics_.CallHandled(method_, CodeName(methods->GetSendStatus().error_code()),
                           clock_.Now() - arrival_);
    }
    methods->Proceed();
  }

 private:
  Metrics& metrics_;
  const Clock& clock_;
  const std::string
      method_;  // "/nibble.v1.GenerationService/Generate": only registered ones come here
  const Instant arrival_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Metrics& metrics, const Clock& clock) : metrics_(metrics), clock_(clock) {}
  Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallCounter(metrics_, clock_, info->method());
  }

 private:
  Metrics& metrics_;
  const Clock& clock_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CreateCallCounter(
    Metrics& metrics, const Clock& clock) {
  return std::make_unique<Factory>(metrics, clock);
}

}  // namespace nibble
