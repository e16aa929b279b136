#include "server/serving_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/refusal.h"

namespace nibble {
namespace {

absl::Status Loading() {
  return UnavailableFor("loading", "the model is loading; try again later", kRetryWhenLoading);
}

absl::Status Failed() {
  return RefusedFor("failed", absl::StatusCode::kInternal,
                    "the engine failed and the server is going down; its log has the reason");
}

}  // namespace

absl::StatusOr<ServingState::Serving> ServingState::CheckModel(const std::string* model) const {
  if (model != nullptr && *model != model_.name) {
    return RefusedFor(
        "unknown_model", absl::StatusCode::kNotFound,
        absl::StrCat("model '", Shortened(*model, 128),
                     "' is not served here; leave the field out or ask for '", model_.name, "'"));
  }
  return Serving{.engine = engine_.get(), .model = &model_, .special_tokens = &special_tokens_};
}

absl::StatusOr<ServingState::Serving> ServingState::ForGeneration(const std::string* model) const {
  MutexLock lock(mutex_);
  switch (phase_) {
    case Phase::kLoading:
      return Loading();
    case Phase::kDraining:
      return UnavailableFor("draining", "the server is draining; another replica may take the call",
                            kRetryWhenDraining);
    case Phase::kFailed:
      return Failed();
    case Phase::kServing:
      break;
  }
  return CheckModel(model);
}

absl::StatusOr<ServingState::Serving> ServingState::ForReading(const std::string* model) const {
  MutexLock lock(mutex_);
  if (phase_ == Phase::kFailed) return Failed();
  if (engine_ == nullptr) return Loading();
  return CheckModel(model);
}

void ServingState::Serve(std::unique_ptr<Engine> engine, const ModelInfo& model) {
  MutexLock lock(mutex_);
  NIBBLE_CHECK(engine_ == nullptr && engine != nullptr);
  engine_ = std::move(engine);
  model_ = model;
  special_tokens_ = SpecialTokenTexts(engine_->tokenizer());
  if (phase_ == Phase::kLoading) phase_ = Phase::kServing;
}

bool ServingState::StartDrain() {
  MutexLock lock(mutex_);
  if (phase_ == Phase::kDraining || phase_ == Phase::kFailed) return false;
  phase_ = Phase::kDraining;
  return true;
}

bool ServingState::Fail(const absl::Status& why) {
  MutexLock lock(mutex_);
  if (phase_ == Phase::kFailed) return false;
  phase_ = Phase::kFailed;
  failure_ = why;
  return true;
}

ServingState::Phase ServingState::phase() const {
  MutexLock lock(mutex_);
  return phase_;
}

absl::Status ServingState::failure() const {
  MutexLock lock(mutex_);
  return failure_;
}

Engine* ServingState::engine() const {
  MutexLock lock(mutex_);
  return engine_.get();
}

}  // namespace nibble
