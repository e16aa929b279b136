// What the engine tells whoever measures it. Called by the engine thread; implementations must not block.
#pragma once

#include <cstdint>

#include "engine/base/clock.h"
#include "engine/request.h"

namespace nibble {

struct StepStats {
  Duration step{};
  int32_t batch_tokens = 0;
  int32_t batch_sequences = 0;
  int32_t prompt_tokens = 0;      // prefilled in this step, recomputed ones included
  int32_t recomputed_tokens = 0;
  int32_t generated_tokens = 0;
  int32_t running = 0;            // after the step
  int32_t waiting = 0;
  int32_t blocks_in_use = 0;      // referenced by a sequence; cached but unreferenced blocks are free
  int32_t num_blocks = 0;
};

class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(const StepStats&) {}
  virtual void OnPreempted(RequestId) {}
  virtual void OnFirstToken(Duration /*since_submit*/) {}
  virtual void OnInterToken(Duration) {}  // between two tokens of one sequence
  virtual void OnFinished(RequestId, const Outcome&) {}
};

}  // namespace nibble
