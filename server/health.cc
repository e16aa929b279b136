#include "server/health.h"

#include <grpcpp/grpcpp.h>

#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/finish_unary.h"

namespace nibble {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using Serving = HealthCheckResponse::ServingStatus;

class HealthService;

// A name that is not kept, and too long for one that may come to be. OK otherwise.
grpc::Status CheckName(bool known, const std::string& name) {
  if (known || name.size() <= kMaxNameBytes) return grpc::Status::OK;
  return {grpc::StatusCode::INVALID_ARGUMENT,
          absl::StrCat("service: has ", name.size(), " bytes, needs at most ", kMaxNameBytes)};
}

// One watcher. Writes the state it was last told, skipping those it had no time to send.
class Watch final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watch(HealthService* service, std::string name, Serving status)
      : service_(service), name_(std::move(name)), wanted_(status) {}

  const std::string& name() const { return name_; }

  void Tell(Serving status) {
    MutexLock lock(mutex_);
    wanted_ = status;
    Pump();
  }
  // Ends without a word before, which a client that takes nothing would hold up.
  void Refuse(const grpc::Status& status) {
    MutexLock lock(mutex_);
    sent_ = wanted_;
    end_ = status;
    Pump();
  }
  void End(const grpc::Status& status) {
    MutexLock lock(mutex_);
    if (!end_.has_value()) end_ = status;
    Pump();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok && !end_.has_value())
      end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the client left");
    Pump();
  }
  void OnCancel() override { End(grpc::Status(grpc::StatusCode::CANCELLED, "the client left")); }
  void OnDone() override;

 private:
  // gRPC never calls a reaction from inside StartWrite or Finish, so the lock may be held.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    // The last news goes out before the end: it tells why.
    if (wanted_ != sent_ &&
        !(end_.has_value() && end_->error_code() == grpc::StatusCode::CANCELLED)) {
      writing_ = true;
      sent_ = wanted_;
      message_.set_status(wanted_);
      StartWrite(&message_);
    } else if (end_.has_value()) {
      finished_ = true;
      Finish(*end_);
    }
  }

  HealthService* const service_;
  const std::string name_;
  Mutex mutex_;
  Serving wanted_ ABSL_GUARDED_BY(mutex_);
  std::optional<Serving> sent_ ABSL_GUARDED_BY(mutex_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  HealthCheckResponse message_;
};

class HealthService final : public Health, public grpc::health::v1::Health::CallbackService {
 public:
  void Set(absl::string_view name, bool serving) override {
    const Serving status =
        serving ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
    MutexLock lock(mutex_);
    Serving& known = names_[std::string(name)];
    if (known == status) return;
    known = status;
    for (nibble::Watch* watch : watches_) {
      if (watch->name() == name) watch->Tell(status);
    }
  }

  void EndWatches() override {
    MutexLock lock(mutex_);
    ended_ = true;
    for (nibble::Watch* watch : watches_) {
      watch->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is going down"));
    }
  }

  grpc::Service* service() override { return this; }

  void Forget(nibble::Watch* watch) {
    MutexLock lock(mutex_);
    watches_.erase(watch);
  }

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const HealthCheckRequest* request,
                                  HealthCheckResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    MutexLock lock(mutex_);
    const auto found = names_.find(request->service());
    const grpc::Status fits = CheckName(found != names_.end(), request->service());
    if (!fits.ok()) {
      reactor->Finish(fits);
    } else if (found == names_.end()) {
      reactor->Finish(
          grpc::Status(grpc::StatusCode::NOT_FOUND, "no health is kept under this name"));
    } else {
      response->set_status(found->second);
      reactor->Finish(grpc::Status::OK);
    }
    DropRequest(request);
    return reactor;
  }

  grpc::ServerWriteReactor<HealthCheckResponse>* Watch(grpc::CallbackServerContext*,
                                                       const HealthCheckRequest* request) override {
    MutexLock lock(mutex_);
    const auto found = names_.find(request->service());
    const Serving status =
        found == names_.end() ? HealthCheckResponse::SERVICE_UNKNOWN : found->second;
    const grpc::Status fits = CheckName(found != names_.end(), request->service());
    auto* watch = new nibble::Watch(this, fits.ok() ? request->service() : "",
                                    status);  // deletes itself in OnDone
    DropRequest(request);
    const bool full = watches_.size() >= kMaxWatches;
    watches_.insert(watch);
    if (ended_) {
      watch->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is going down"));
    } else if (!fits.ok()) {
      watch->Refuse(fits);
    } else if (full) {
      watch->Refuse(
          grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many watches are open"));
    } else {
      watch->Tell(status);
    }
    return watch;
  }

 private:
  Mutex mutex_;
  std::map<std::string, Serving, std::less<>> names_ ABSL_GUARDED_BY(mutex_);
  std::set<nibble::Watch*> watches_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

void Watch::OnDone() {
  service_->Forget(this);
  delete this;
}

}  // namespace

std::unique_ptr<Health> Health::Create() { return std::make_unique<HealthService>(); }

}  // namespace nibble
