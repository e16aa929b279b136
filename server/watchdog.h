// The thread that looks after the server: decides what health says, notices an engine that failed
// or no longer steps, cuts off calls that no longer move, and ends a drain when all is delivered
// or its time is up.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "server/parts.h"

namespace nibble {

inline constexpr Duration kStuckCall =
    std::chrono::seconds(60);  // nothing taken for so long, or longer: see StuckAfter
inline constexpr Duration kDeliveryGrace =
    std::chrono::seconds(2);  // after the drain timeout, for what has ended

// When a call whose client takes nothing is aborted: after kStuckCall, but not before the engine
// itself gives up a sequence that its client holds up.
Duration StuckAfter(const ServerOptions& options);

class Watchdog {
 public:
  // Called on the watchdog's thread.
  struct Events {
    std::function<void(bool ready, bool alive)> health;
    std::function<void()> turn_away;  // a drain goes on for ServerOptions::turn_away_after; once
    std::function<void()> shut_down;  // the drain is over; may block
  };

  static std::unique_ptr<Watchdog> Start(ServerParts& parts, Events events);
  ~Watchdog();  // ends the thread; what waits in WaitUntilOver hears CANCELLED

  // Something changed: do not wait for the next look.
  void LookNow();

  // OK when a drain has finished, the engine's failure (INTERNAL) when it failed.
  absl::Status WaitUntilOver();

 private:
  Watchdog(ServerParts& parts, Events events);
  void Run();
  void Look(Instant now);
  bool Stalled(const EngineLoad& load, Instant now);
  enum class DrainState : uint8_t { kGoesOn, kOver, kStuck };
  DrainState DrainAt(Instant now);
  void TurnAwayAt(Instant now);
  void Abandon(const EngineLoad& load);
  void End(absl::Status how);

  ServerParts& parts_;
  const Events events_;

  // Only the thread's.
  int64_t last_steps_ = -1;
  int64_t last_layers_ = -1;
  Instant last_progress_{};
  std::optional<Instant> drain_since_;
  bool turned_away_ = false;
  bool stalled_ = false;

  Mutex mutex_;
  CondVar changed_;
  bool look_now_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> over_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace nibble
