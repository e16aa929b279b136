#include "engine/engine_loop.h"

#include <algorithm>
#include <type_traits>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// Durations come from callers; added to an instant they must not overflow.
Instant After(Instant start, Duration d) {
  constexpr Duration kForever = std::chrono::hours(24 * 365 * 10);
  return start + std::min(d, kForever);
}

// How and when a sequence ends if nothing else happens.
struct Expiry {
  Instant at = Instant::max();
  absl::Status status;
  Ending ending;
};

void Consider(Expiry& earliest, Instant at, absl::Status status, FinishReason reason) {
  if (at < earliest.at) earliest = {at, std::move(status), {reason, -1, ""}};
}

absl::Status SlowClient(Duration pause_timeout) {
  absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "client reads too slowly: nothing was taken for ", Seconds(pause_timeout), " s"));
  status.SetPayload(kReasonPayload, absl::Cord(kSlowClient));
  return status;
}

Expiry ExpiryOf(const Sequence& s, Duration pause_timeout, std::optional<Instant> drain_deadline) {
  Expiry earliest;
  if (s.params.time_limit) {
    Consider(earliest, After(s.submitted, *s.params.time_limit), absl::OkStatus(),
             FinishReason::kDeadline);
  }
  if (s.params.deadline) {
    Consider(earliest, *s.params.deadline,
             absl::DeadlineExceededError(absl::StrCat(
                 "the deadline passed in stage ", StageName(s.stage()), " after ",
                 s.num_generated(), " tokens; allow more time or ask for fewer tokens")),
             FinishReason::kUnspecified);
  }
  if (s.paused) {
    Consider(earliest, After(s.paused_since, pause_timeout), SlowClient(pause_timeout),
             FinishReason::kUnspecified);
  }
  if (drain_deadline && s.first_scheduled) {
    Consider(earliest, *drain_deadline, absl::OkStatus(), FinishReason::kDrained);
  } else if (drain_deadline) {
    Consider(earliest, *drain_deadline,
             absl::UnavailableError("the server is draining; try another or later"),
             FinishReason::kUnspecified);
  }
  return earliest;
}

absl::Status NotPositive(absl::string_view name, int64_t value) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", needed above 0"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineLoop>> EngineLoop::Create(const LoopParts& parts,
                                                               const EngineOptions& options) {
  const RunnerLimits limits = parts.runner->limits();
  for (const auto& [name, value] : std::vector<std::pair<const char*, int32_t>>{
           {"max_running", options.max_running},
           {"max_batch_tokens", options.max_batch_tokens},
           {"the runner's vocab_size", limits.vocab_size},
           {"the runner's max_context", limits.max_context},
           {"the runner's block_size", limits.block_size},
           {"the runner's num_blocks", limits.num_blocks},
           {"the runner's max_batch_tokens", limits.max_batch_tokens},
           {"the runner's max_sequences", limits.max_sequences}}) {
    if (value <= 0) return NotPositive(name, value);
  }
  if (options.pause_timeout <= Duration::zero()) {
    return NotPositive("pause_timeout", options.pause_timeout.count());
  }
  if (parts.tokenizer->vocab_size() < limits.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer knows ", parts.tokenizer->vocab_size(), " tokens, the model ",
                     limits.vocab_size, "; do they belong together?"));
  }
  SchedulerOptions scheduling;
  scheduling.max_running = std::min(options.max_running, limits.max_sequences);
  scheduling.max_batch_tokens = std::min(options.max_batch_tokens, limits.max_batch_tokens);
  scheduling.block_size = limits.block_size;
  scheduling.num_blocks = limits.num_blocks;
  scheduling.prefix_cache = options.prefix_cache;
  scheduling.cache_key = MakeHashKey(options.seed);
  if (scheduling.max_running > scheduling.max_batch_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max_running is ", scheduling.max_running, ", but a step holds only ",
        scheduling.max_batch_tokens, " tokens, and every running sequence needs one; raise ",
        "max_batch_tokens or lower max_running"));
  }
  return std::unique_ptr<EngineLoop>(new EngineLoop(parts, options, scheduling));
}

EngineLoop::EngineLoop(const LoopParts& parts, const EngineOptions& options,
                       const SchedulerOptions& scheduling)
    : parts_(parts), options_(options), limits_(parts.runner->limits()), scheduler_(scheduling) {
  PublishLoad();
}

EngineLoop::~EngineLoop() { Shutdown(); }

RequestId EngineLoop::Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink) {
  NIBBLE_CHECK(!request.prompt_ids.empty() && request.params.stopping.max_tokens.has_value());
  const Instant now = parts_.clock->Now();
  const RequestId id = last_id_.fetch_add(1) + 1;
  open_.fetch_add(1);
  mailbox_.Post(Submission{id, std::move(request), std::move(sink), now});
  return id;
}

void EngineLoop::Cancel(RequestId id) { mailbox_.Post(Cancellation{id}); }

void EngineLoop::Resume(RequestId id) { mailbox_.Post(Resumption{id}); }

void EngineLoop::Stop() { mailbox_.Post(StopOrder{}); }

void EngineLoop::Drain(Duration timeout) {
  draining_.store(true);
  mailbox_.Post(DrainOrder{After(parts_.clock->Now(), timeout)});
}

EngineLoad EngineLoop::Load() const {
  EngineLoad load;
  {
    MutexLock lock(load_mutex_);
    load = load_;
  }
  // What was posted and not yet taken counts too, so that a stuck engine cannot look idle.
  load.waiting = std::max(0, open_.load() - load.running);
  load.draining = draining_.load();
  load.layers = parts_.runner->layers_run();
  return load;
}

std::string EngineLoop::DumpState(Duration patience) {
  auto answer = std::make_shared<std::promise<std::string>>();
  std::future<std::string> text = answer->get_future();
  mailbox_.Post(DumpOrder{std::move(answer)});
  if (text.wait_for(patience) == std::future_status::ready) return text.get();
  const EngineLoad load = Load();
  return absl::StrCat("the engine thread is busy in a step; steps ", load.steps, ", running ",
                      load.running, ", waiting ", load.waiting, "\n");
}

void EngineLoop::Run() {
  while (!stopped_) {
    if (!Step() && !stopped_) mailbox_.Wait(NextEvent());
  }
  Shutdown();
}

bool EngineLoop::Step() {
  for (Command& command : mailbox_.Take()) {
    std::visit([this](auto& c) { Apply(std::move(c)); }, command);
  }
  const Instant now = parts_.clock->Now();
  Expire(now);
  SayLast();
  const bool ran = failure_.ok() && !stopped_ && RunBatch(now);
  PublishLoad();
  SayLast();
  return ran;
}

void EngineLoop::Apply(Submission submission) {
  if (!failure_.ok()) {
    // The device's own words are the operator's: they may hold paths and addresses.
    Refuse(submission, absl::UnavailableError("the engine stopped; try another server"));
    return;
  }
  if (drain_deadline_) {
    Refuse(submission, absl::UnavailableError("the server is draining; try another or later"));
    return;
  }
  const absl::Span<const int32_t> end_ids = parts_.tokenizer->end_of_generation_ids();
  auto sequence = std::make_unique<Sequence>(submission.id, std::move(submission.request), end_ids,
                                             submission.submitted);
  deliveries_.emplace(submission.id,
                      Delivery(std::move(submission.sink), *parts_.tokenizer, *sequence));
  scheduler_.Add(std::move(sequence));
}

void EngineLoop::Apply(Cancellation cancellation) {
  if (scheduler_.Find(cancellation.id) == nullptr) return;
  End(cancellation.id, absl::CancelledError("the caller cancelled"), {}, parts_.clock->Now());
}

void EngineLoop::Apply(Resumption resumption) { scheduler_.Resume(resumption.id); }

void EngineLoop::Apply(DrainOrder order) {
  drain_deadline_ = std::min(drain_deadline_.value_or(order.deadline), order.deadline);
}

void EngineLoop::Apply(DumpOrder order) { order.answer->set_value(DescribeState()); }

void EngineLoop::Apply(StopOrder) { stopped_ = true; }

void EngineLoop::Expire(Instant now) {
  std::vector<std::pair<RequestId, Expiry>> expired;
  for (const auto& [id, sequence] : scheduler_.sequences()) {
    Expiry expiry = ExpiryOf(*sequence, options_.pause_timeout, drain_deadline_);
    if (expiry.at <= now) expired.emplace_back(id, std::move(expiry));
  }
  for (auto& [id, expiry] : expired) End(id, std::move(expiry.status), expiry.ending, now);
}

std::optional<Instant> EngineLoop::NextEvent() const {
  Instant next = Instant::max();
  for (const auto& [id, sequence] : scheduler_.sequences()) {
    next = std::min(next, ExpiryOf(*sequence, options_.pause_timeout, drain_deadline_).at);
  }
  if (next == Instant::max()) return std::nullopt;
  return next;
}

bool EngineLoop::RunBatch(Instant now) {
  const Scheduler::Plan plan = scheduler_.Schedule(now);
  Announce(plan, now);
  if (plan.batch.rows.empty()) return !plan.exhausted.empty();  // others may go on without them
  absl::StatusOr<StepResult> result = parts_.runner->Run(plan.batch);
  absl::Status status = result.ok() ? CheckResult(plan.batch, *result) : result.status();
  const Instant done = parts_.clock->Now();
  if (!status.ok()) {
    Fail(std::move(status), done);
    return true;
  }
  ++steps_;
  step_time_ = done - now;
  const auto progress = scheduler_.Commit(plan.batch, *result, done);
  Report(plan.batch, progress, step_time_);
  for (size_t i = 0; i < progress.size(); ++i) Deliver(progress[i], result->rows[i], done);
  return true;
}

void EngineLoop::Announce(const Scheduler::Plan& plan, Instant now) {
  for (RequestId id : plan.started) deliveries_.at(id).Start(*scheduler_.Find(id));
  for (RequestId id : plan.preempted) {
    if (parts_.observer != nullptr) parts_.observer->OnPreempted(id);
  }
  for (RequestId id : plan.exhausted) {
    const int32_t num_tokens = scheduler_.Find(id)->num_known();
    End(id,
        absl::ResourceExhaustedError(absl::StrCat(
            "the sequence grew to ", num_tokens, " tokens, the whole cache holds ",
            int64_t{limits_.num_blocks} * limits_.block_size, "; ask for fewer tokens")),
        {}, now);
  }
}

// A runner that answers nonsense is as broken as one that reports a fault.
absl::Status EngineLoop::CheckResult(const Batch& batch, const StepResult& result) const {
  if (result.rows.size() != batch.rows.size()) {
    return absl::InternalError(absl::StrCat("the runner answered ", result.rows.size(),
                                            " rows to a batch of ", batch.rows.size()));
  }
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    const std::optional<Logprob>& sampled = result.rows[i].sampled;
    if (sampled.has_value() != batch.rows[i].sample) {
      return absl::InternalError("the runner sampled a row it was not asked to, or did not");
    }
    if (sampled && (sampled->id < 0 || sampled->id >= limits_.vocab_size)) {
      return absl::InternalError(absl::StrCat("the runner drew token id ", sampled->id,
                                              ", needed 0 to ", limits_.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

void EngineLoop::Deliver(const Scheduler::Progress& progress, RowResult& row, Instant now) {
  const Sequence& sequence = *progress.sequence;
  Delivery& delivery = deliveries_.at(sequence.id);
  delivery.AddPromptLogprobs(std::move(row.prompt_logprobs));
  if (!progress.new_token) {
    if (sequence.num_missing() > 0) return;  // prefilling
    delivery.EndPrompt(sequence);
    End(sequence.id, absl::OkStatus(), *sequence.FindEnding(limits_.max_context), now);
    return;
  }
  std::optional<Ending> ending = sequence.FindEnding(limits_.max_context);
  const TokenSink::Room room = delivery.AddToken(sequence, *row.sampled, ending);
  if (ending) {
    End(sequence.id, absl::OkStatus(), *std::move(ending), now);
  } else if (room == TokenSink::Room::kFull) {
    scheduler_.Pause(sequence.id, now);
  }
}

void EngineLoop::Report(const Batch& batch, const std::vector<Scheduler::Progress>& progress,
                        Duration took) {
  if (parts_.observer == nullptr) return;
  StepStats stats;
  stats.step = took;
  stats.batch_tokens = batch.num_tokens;
  stats.batch_sequences = static_cast<int32_t>(batch.rows.size());
  for (size_t i = 0; i < progress.size(); ++i) {
    const BatchRow& row = batch.rows[i];
    const bool decodes = row.num_scheduled == 1 && row.num_computed >= row.prompt_length &&
                         progress[i].recomputed == 0;
    stats.prompt_tokens += decodes ? 0 : row.num_scheduled;
    stats.recomputed_tokens += progress[i].recomputed;
    if (!progress[i].new_token) continue;
    ++stats.generated_tokens;
    const Sequence& sequence = *progress[i].sequence;
    if (sequence.num_generated() == 1) {
      parts_.observer->OnFirstToken(*sequence.first_token - sequence.submitted);
    } else {
      parts_.observer->OnInterToken(progress[i].since_previous);
    }
  }
  const SchedulerCounts counts = scheduler_.counts();
  stats.running = counts.running;
  stats.waiting = counts.waiting;
  stats.blocks_in_use = counts.blocks_in_use;
  stats.num_blocks = limits_.num_blocks;
  parts_.observer->OnStep(stats);
}

void EngineLoop::Fail(absl::Status failure, Instant now) {
  failure_ = absl::InternalError(failure.message());
  std::vector<RequestId> ids;
  for (const auto& [id, sequence] : scheduler_.sequences()) ids.push_back(id);
  for (RequestId id : ids) End(id, failure_, {}, now);
}

void EngineLoop::End(RequestId id, absl::Status status, Ending ending, Instant now) {
  const std::unique_ptr<Sequence> sequence = scheduler_.Remove(id);
  const auto delivery = deliveries_.extract(id);
  const bool by_time =
      ending.reason == FinishReason::kDeadline || ending.reason == FinishReason::kDrained;
  if (status.ok() && by_time && !sequence->first_scheduled) delivery.mapped().Start(*sequence);
  if (status.ok() && by_time) delivery.mapped().Flush();
  Last last{id, delivery.mapped().sink(), {}};
  if (status.ok()) {
    last.outcome.finish_reason = ending.reason;
    last.outcome.matched_stop = std::move(ending.matched_stop);
    last.outcome.matched_token = ending.matched_token;
  }
  last.outcome.status = std::move(status);
  last.outcome.stage = sequence->stage();
  last.outcome.usage = sequence->usage();
  last.outcome.timings = sequence->timings(now);
  last_.push_back(std::move(last));
}

void EngineLoop::Refuse(const Submission& submission, absl::Status status) {
  Last last{submission.id, submission.sink, {}};
  last.outcome.status = std::move(status);
  last.outcome.usage.prompt_tokens = static_cast<int32_t>(submission.request.prompt_ids.size());
  last.outcome.timings.queue = parts_.clock->Now() - submission.submitted;
  last.outcome.timings.total = last.outcome.timings.queue;
  last_.push_back(std::move(last));
}

// After PublishLoad, so that whoever hears of an end finds its blocks free in Load().
void EngineLoop::SayLast() {
  if (last_.empty()) return;
  PublishLoad();
  for (Last& last : std::exchange(last_, {})) {
    if (parts_.observer != nullptr) parts_.observer->OnFinished(last.id, last.outcome);
    last.sink->OnFinished(last.outcome);
    open_.fetch_sub(1);
  }
}

void EngineLoop::Shutdown() {
  stopped_ = true;
  const Instant now = parts_.clock->Now();
  const absl::Status status = absl::CancelledError("the engine is shutting down");
  for (Command& command : mailbox_.Take()) {
    if (auto* submission = std::get_if<Submission>(&command)) Refuse(*submission, status);
    if (auto* order = std::get_if<DumpOrder>(&command)) Apply(std::move(*order));
  }
  std::vector<RequestId> ids;
  for (const auto& [id, sequence] : scheduler_.sequences()) ids.push_back(id);
  for (RequestId id : ids) End(id, status, {}, now);
  SayLast();
}

void EngineLoop::PublishLoad() {
  const SchedulerCounts counts = scheduler_.counts();
  EngineLoad load;
  load.running = counts.running;
  load.paused = counts.paused;
  load.paused_waiting = counts.paused_waiting;
  load.queued_prompt_tokens = counts.queued_prompt_tokens;
  load.blocks_in_use = counts.blocks_in_use;
  load.num_blocks = limits_.num_blocks;
  load.block_size = limits_.block_size;
  load.steps = steps_;
  load.step_time = step_time_;
  load.failure = failure_;
  MutexLock lock(load_mutex_);
  load_ = std::move(load);
}

std::string EngineLoop::DescribeState() const {
  const SchedulerCounts counts = scheduler_.counts();
  const Instant now = parts_.clock->Now();
  std::string out =
      absl::StrCat("steps ", steps_, ", running ", counts.running, ", waiting ", counts.waiting,
                   ", paused ", counts.paused, ", blocks ", counts.blocks_in_use, " of ",
                   limits_.num_blocks, draining_.load() ? ", draining" : "",
                   failure_.ok() ? "" : ", failed: ", std::string(failure_.message()), "\n");
  for (const auto& [id, s] : scheduler_.sequences()) {
    absl::StrAppend(&out, "request ", id, ": ", StageName(s->stage()),
                    s->running ? " running" : " waiting", s->paused ? " paused" : "", ", priority ",
                    s->params.priority, ", prompt ", s->prompt_length, ", generated ",
                    s->num_generated(), " of ", s->max_tokens(), ", computed ", s->num_computed,
                    ", blocks ", s->block_table.size(), ", preempted ", s->preemptions, ", age ",
                    Seconds(now - s->submitted), " s\n");
  }
  return out;
}

}  // namespace nibble
