#include "server/watchdog.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/open_calls.h"

namespace nibble {
namespace {

using Phase = ServingState::Phase;

// Real time between looks; what is measured in them is the Clock's.
constexpr auto kLookEvery = std::chrono::milliseconds(100);
constexpr auto kLookEveryWhileDraining =
    std::chrono::milliseconds(10);  // a drain should not wait for its watcher

}  // namespace

Duration StuckAfter(const ServerOptions& options) {
  return std::max<Duration>(kStuckCall, options.pause_timeout + kDeliveryGrace);
}

std::unique_ptr<Watchdog> Watchdog::Start(ServerParts& parts, Events events) {
  return std::unique_ptr<Watchdog>(new Watchdog(parts, std::move(events)));
}

Watchdog::Watchdog(ServerParts& parts, Events events)
    : parts_(parts),
      events_(std::move(events)),
      last_progress_(parts.clock.Now()),
      thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    if (!over_.has_value()) over_ = absl::CancelledError("the server was taken down");
    changed_.NotifyAll();
  }
  thread_.join();
}

void Watchdog::LookNow() {
  MutexLock lock(mutex_);
  look_now_ = true;
  changed_.NotifyAll();
}

absl::Status Watchdog::WaitUntilOver() {
  MutexLock lock(mutex_);
  while (!over_.has_value()) changed_.Wait(mutex_);
  return *over_;
}

void Watchdog::End(absl::Status how) {
  MutexLock lock(mutex_);
  if (!over_.has_value()) over_ = std::move(how);
  changed_.NotifyAll();
}

void Watchdog::Run() {
  while (true) {
    {
      const auto every = drain_since_.has_value() ? kLookEveryWhileDraining : kLookEvery;
      const auto next = std::chrono::steady_clock::now() + every;
      MutexLock lock(mutex_);
      while (!stopping_ && !look_now_ && !over_.has_value() && changed_.WaitUntil(mutex_, next)) {
      }
      // Once over, there is nothing left to look after.
      while (!stopping_ && over_.has_value()) changed_.Wait(mutex_);
      if (stopping_) return;
      look_now_ = false;
    }
    Look(parts_.clock.Now());
  }
}

bool Watchdog::Stalled(const EngineLoad& load, Instant now) {
  const bool pending = load.waiting > load.paused_waiting || load.running > load.paused;
  // A step may take minutes: a long prompt's, of a large model on few cores.
  if (!pending || load.steps != last_steps_ || load.layers != last_layers_) {
    last_steps_ = load.steps;
    last_layers_ = load.layers;
    last_progress_ = now;
  }
  return now - last_progress_ >= parts_.options.stall_timeout;
}

Watchdog::DrainState Watchdog::DrainAt(Instant now) {
  if (!drain_since_.has_value()) drain_since_ = now;
  const Engine* engine = parts_.state.engine();
  const bool idle = engine == nullptr || engine->Idle();
  if (idle && parts_.admission.counts().open_requests == 0) return DrainState::kOver;
  const Instant end = *drain_since_ + parts_.options.drain_timeout + kDeliveryGrace;
  if (now <= end) return DrainState::kGoesOn;
  if (idle) return DrainState::kOver;  // what is left are clients that do not read
  // An engine that steps ends all it has within one step of the timeout.
  const bool stuck = stalled_ || now > end + parts_.options.stall_timeout;
  return stuck ? DrainState::kStuck : DrainState::kGoesOn;
}

// REQUIRES a drain has begun.
void Watchdog::TurnAwayAt(Instant now) {
  if (turned_away_ || now - *drain_since_ < parts_.options.turn_away_after) return;
  turned_away_ = true;
  events_.turn_away();
}

// The calls' reactors wait for the engine, and gRPC's shutdown for them: nothing can be joined.
void Watchdog::Abandon(const EngineLoad& load) {
  parts_.log.WriteLast(
      LogLevel::kError, "drain_stuck",
      {{"running", load.running},
       {"waiting", load.waiting},
       {"steps", load.steps},
       {"detail",
        "the engine makes no step and its calls cannot end; the process goes with them"}});
  parts_.options.end_process(1);
  End(absl::InternalError("the engine makes no step, so the drain could not end"));
}

void Watchdog::Look(Instant now) {
  Engine* const engine = parts_.state.engine();
  const EngineLoad load = engine != nullptr ? engine->Load() : EngineLoad{};
  if (!load.failure.ok()) {
    parts_.state.Fail(load.failure);
    events_.health(/*ready=*/false, /*alive=*/false);
    parts_.log.Error("engine_failed", {{"error", load.failure.ToString()}});
    End(absl::InternalError(absl::StrCat("the engine failed: ", load.failure.message())));
    return;
  }
  const bool was_stalled = std::exchange(stalled_, Stalled(load, now));
  if (stalled_ && !was_stalled) {
    parts_.log.Error("engine_stalled",
                     {{"running", load.running}, {"waiting", load.waiting}, {"steps", load.steps}});
  } else if (was_stalled && !stalled_) {
    parts_.log.Warning("engine_moves_again", {{"steps", load.steps}});
  }
  const Phase phase = parts_.state.phase();
  events_.health(/*ready=*/phase == Phase::kServing && !stalled_, /*alive=*/!stalled_);
  if (const int aborted = parts_.open_calls.AbortStuckSince(now - StuckAfter(parts_.options));
      aborted > 0) {
    parts_.log.Warning("calls_aborted",
                       {{"calls", aborted}, {"reason", "the client does not read"}});
  }
  if (phase != Phase::kDraining) return;
  const DrainState drain = DrainAt(now);
  if (drain == DrainState::kGoesOn) TurnAwayAt(now);
  if (drain == DrainState::kStuck) Abandon(load);
  if (drain != DrainState::kOver) return;
  events_.shut_down();
  parts_.log.Info("drained", {{"seconds", Seconds(parts_.clock.Now() - *drain_since_)}});
  End(absl::OkStatus());
}

}  // namespace nibble
