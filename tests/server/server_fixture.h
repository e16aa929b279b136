// A server with a fake engine in this process, on ports the system chose, and stubs that speak to
// it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "nibble/v1/admin.grpc.pb.h"
#include "nibble/v1/generation.grpc.pb.h"
#include "nibble/v1/model.grpc.pb.h"
#include "nibble/v1/tokenizer.grpc.pb.h"
#include "server/server.h"
#include "tests/server/fake_engine.h"

namespace nibble {

// A clock that any thread may move; starts at the machine's time and runs on with it.
class OffsetClock final : public Clock {
 public:
  Instant Now() const override {
    return std::chrono::steady_clock::now() + Duration(offset_.load());
  }
  void Advance(Duration by) { offset_ += by.count(); }

 private:
  std::atomic<int64_t> offset_{0};
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest();

  void StartServer();  // with options_; fails the test if it does not start
  void ServeFake(const FakeEngine::Options& options = {});  // from now on calls are answered
  void StartServing(const FakeEngine::Options& options = {}) {
    StartServer();
    ServeFake(options);
  }

  std::shared_ptr<grpc::Channel> Connect(
      std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials(),
      const grpc::ChannelArguments& args = {}) const;
  // The channel, once it is open. gRPC 1.51's client fails a first attempt now and then on a busy
  // machine (it reads errno late), and a call that does not wait for the next one fails with it.
  static std::shared_ptr<grpc::Channel> Opened(std::shared_ptr<grpc::Channel> channel);
  std::string address() const;
  static int ConnectRaw(int32_t port);  // a socket that says nothing; -1 when nobody listens
  std::string Scrape() const;           // over HTTP, as Prometheus does
  // The value of one sample line, as "nibble_requests_started_total{model=\"m\"}"; -1 when it is
  // not there.
  static double Sample(const std::string& scrape, const std::string& series);
  // The sum over all series of a name.
  static double SumOf(const std::string& scrape, const std::string& name);

  int OpenRequests() const;  // as GetLoad tells; -1 when it does not answer
  std::vector<std::string> LogLines() const;
  bool LogHas(const std::string& text) const;
  // Waits for what another thread is about to do; fails the test after 20 s.
  static void Eventually(const std::function<bool()>& condition, const char* what);
  grpc::health::v1::HealthCheckResponse::ServingStatus HealthOf(const std::string& name) const;

  // First: the server logs until it is gone.
  mutable Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);

  OffsetClock clock_;
  ServerOptions options_;
  ModelInfo model_;  // what ServeFake serves
  std::unique_ptr<Server> server_;
  FakeEngine* engine_ = nullptr;  // owned by the server
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
};

// Of a channel whose calls take only the first 64 KiB of an answer unless they ask for it.
grpc::ChannelArguments SmallWindow();

// A unary call that is sent and whose answer nobody asks for, until Finish.
template <typename Response>
class UnreadCall {
 public:
  explicit UnreadCall(std::shared_ptr<grpc::Channel> channel) : channel_(std::move(channel)) {
    context_.set_wait_for_ready(true);
  }
  ~UnreadCall() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  std::shared_ptr<grpc::Channel> channel() const { return channel_; }
  grpc::ClientContext* context() { return &context_; }
  grpc::CompletionQueue* queue() { return &queue_; }

  void Start(std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> call) {
    call_ = std::move(call);
    call_->StartCall();
    call_->ReadInitialMetadata(&context_);  // sends the request; no message is asked for
  }
  grpc::Status Finish() {
    finished_ = true;
    if (call_ == nullptr) return grpc::Status::OK;
    grpc::Status status;
    call_->Finish(&response_, &status, &call_);
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok) && tag != &call_) {
    }
    return status;
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  Response response_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Response>> call_;
  bool finished_ = false;
};

v1::GenerateRequest TextRequest(const std::string& text, int32_t max_tokens);
v1::GenerateStreamRequest TextStreamRequest(const std::string& text, int32_t max_tokens);

// The detail of that type, if the status has it.
template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return std::nullopt;
  for (const auto& any : rich.details()) {
    Detail detail;
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

std::string TrailerOf(const grpc::ClientContext& context,
                      const std::string& key);  // "" when absent

}  // namespace nibble
