// The engine's heart: takes commands from a mailbox, steps scheduler and runner, and delivers.
// Everything it does happens inside Step, so a test with a fake clock can drive it without a
// thread; Engine gives it one.
#pragma once

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/mailbox.h"
#include "engine/base/mutex.h"
#include "engine/delivery.h"
#include "engine/engine.h"
#include "engine/model/model_runner.h"
#include "engine/observer.h"
#include "engine/request.h"
#include "engine/scheduling/scheduler.h"
#include "engine/text/tokenizer.h"

namespace nibble {

// Borrowed; must outlive the loop. `observer` may be null.
struct LoopParts {
  ModelRunner* runner = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const Clock* clock = nullptr;
  EngineObserver* observer = nullptr;
};

class EngineLoop {
 public:
  // INVALID_ARGUMENT when options, runner and tokenizer do not fit together.
  static absl::StatusOr<std::unique_ptr<EngineLoop>> Create(const LoopParts& parts,
                                                            const EngineOptions& options);
  ~EngineLoop();  // Shutdown, in case nobody did

  // Any thread; as Engine.
  RequestId Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink);
  void Cancel(RequestId id);
  void Resume(RequestId id);
  void Drain(Duration timeout);
  bool Idle() const { return open_.load() == 0; }
  EngineLoad Load() const;
  // Answered by the engine thread; a line saying that it is busy when it does not within
  // `patience`.
  std::string DumpState(Duration patience);
  void Stop();  // makes Run return

  // The engine thread, or a test in its place.
  void Run();   // steps, and sleeps when there is nothing to do, until Stop; then Shutdown
  bool Step();  // one round; false when nothing can happen before NextEvent or the next command
  std::optional<Instant> NextEvent() const;  // the next deadline of anybody; absent: none
  void Shutdown();                           // everybody left ends CANCELLED
  std::string DescribeState() const;
  absl::Status CheckIntegrity() const { return scheduler_.CheckIntegrity(); }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  struct Submission {
    RequestId id = 0;
    PreparedRequest request;
    std::shared_ptr<TokenSink> sink;
    Instant submitted{};
  };
  struct Cancellation {
    RequestId id = 0;
  };
  struct Resumption {
    RequestId id = 0;
  };
  struct DrainOrder {
    Instant deadline{};
  };
  struct DumpOrder {
    std::shared_ptr<std::promise<std::string>> answer;
  };
  struct StopOrder {};
  using Command =
      std::variant<Submission, Cancellation, Resumption, DrainOrder, DumpOrder, StopOrder>;
  struct Last {  // a sink's last call, made once Load() shows the blocks are free
    RequestId id = 0;
    std::shared_ptr<TokenSink> sink;
    Outcome outcome;
  };

  EngineLoop(const LoopParts& parts, const EngineOptions& options,
             const SchedulerOptions& scheduling);

  void Apply(Submission submission);
  void Apply(Cancellation cancellation);
  void Apply(Resumption resumption);
  void Apply(DrainOrder order);
  void Apply(DumpOrder order);
  void Apply(StopOrder);

  void Expire(Instant now);
  bool RunBatch(Instant now);
  void Announce(const Scheduler::Plan& plan, Instant now);
  absl::Status CheckResult(const Batch& batch, const StepResult& result) const;
  void Deliver(const Scheduler::Progress& progress, RowResult& row, Instant now);
  void Report(const Batch& batch, const std::vector<Scheduler::Progress>& progress, Duration took);
  void Fail(absl::Status failure, Instant now);

  // Takes the sequence out; its sink hears of it in SayLast. `status` not OK: `ending` is not
  // looked at.
  void End(RequestId id, absl::Status status, Ending ending, Instant now);
  void Refuse(const Submission& submission, absl::Status status);
  void SayLast();
  void PublishLoad();

  LoopParts parts_;
  EngineOptions options_;
  RunnerLimits limits_;
  Mailbox<Command> mailbox_;
  std::atomic<RequestId> last_id_{0};
  std::atomic<int32_t> open_{0};  // submitted and not yet finished
  std::atomic<bool> draining_{false};

  mutable Mutex load_mutex_;  // held to copy a few numbers
  EngineLoad load_ ABSL_GUARDED_BY(load_mutex_);

  // The engine thread's.
  Scheduler scheduler_;
  std::unordered_map<RequestId, Delivery> deliveries_;
  std::vector<Last> last_;
  std::optional<Instant> drain_deadline_;
  absl::Status failure_;
  bool stopped_ = false;
  int64_t steps_ = 0;
  Duration step_time_{};
};

}  // namespace nibble
