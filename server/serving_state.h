// What the server is doing at the moment, and the engine it serves with. Any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "server/server.h"

namespace nibble {

class ServingState {
 public:
  enum class Phase : uint8_t { kLoading, kServing, kDraining, kFailed };

  // The engine and what it serves; valid until the state is destroyed, after the last call has
  // ended.
  struct Serving {
    Engine* engine = nullptr;
    const ModelInfo* model = nullptr;
    const std::vector<std::string>* special_tokens =
        nullptr;  // texts that message content may not smuggle in
  };

  // For a new Generate call. UNAVAILABLE while loading or draining, INTERNAL after a failure,
  // NOT_FOUND when `model` is set and is another.
  absl::StatusOr<Serving> ForGeneration(const std::string* model) const;
  // For calls that only read (tokenizer, model): they still answer while draining.
  absl::StatusOr<Serving> ForReading(const std::string* model) const;

  // REQUIRES called once. Does not end a drain that came first.
  void Serve(std::unique_ptr<Engine> engine, const ModelInfo& model);
  // False when it was draining or failed already.
  bool StartDrain();
  // The first failure stays. False when it had failed already.
  bool Fail(const absl::Status& why);

  Phase phase() const;
  absl::Status failure() const;
  Engine* engine() const;  // null until Serve

 private:
  absl::StatusOr<Serving> CheckModel(const std::string* model) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kLoading;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Engine> engine_ ABSL_GUARDED_BY(mutex_);
  ModelInfo model_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> special_tokens_
      ABSL_GUARDED_BY(mutex_);  // as model_, fixed once Serve was called
};

}  // namespace nibble
