#include "tests/server/fake_engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace nibble {

FakeEngine::FakeEngine(const Clock& clock, const Options& options)
    : clock_(clock),
      options_(options),
      limits_{.vocab_size = FakeTokenizer::kVocabSize,
              .max_context = options.max_context,
              .block_size = 16,
              .num_blocks = options.max_context / 16 + 64,
              .max_batch_tokens = 512,
              .max_sequences = 64},
      preparer_(tokenizer_, options.chat_template ? &template_ : nullptr, limits_, 7),
      thread_([this] { Run(); }) {}

FakeEngine::~FakeEngine() {
  stuck_ = false;
  mailbox_.Post([this] { stopping_ = true; });
  thread_.join();
}

RequestId FakeEngine::Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink) {
  const RequestId id = next_id_++;
  ++submitted_;
  ++open_;
  {
    MutexLock lock(mutex_);
    last_params_ = request.params;
  }
  auto shared =
      std::make_shared<Request>(Request{.prepared = std::move(request), .sink = std::move(sink)});
  mailbox_.Post([this, id, shared] {
    auto it = requests_.emplace(id, std::move(*shared)).first;
    absl::Status failure;
    {
      MutexLock lock(mutex_);
      failure = failure_;
    }
    if (!failure.ok()) return Finish(it, failure, FinishReason::kUnspecified);
    if (draining_)
      return Finish(it, absl::UnavailableError("the engine is draining"),
                    FinishReason::kUnspecified);
    if (options_.behaviour != Behaviour::kHoldQueued) StartRequest(id, it->second);
  });
  return id;
}

void FakeEngine::Cancel(RequestId id) {
  mailbox_.Post([this, id] {
    if (auto it = requests_.find(id); it != requests_.end()) {
      Finish(it, absl::CancelledError("the caller cancelled"), FinishReason::kUnspecified);
    }
  });
}

void FakeEngine::Resume(RequestId id) {
  mailbox_.Post([this, id] {
    auto it = requests_.find(id);
    if (it != requests_.end() && std::exchange(it->second.paused, false)) --paused_now_;
  });
}

void FakeEngine::Drain(Duration timeout) {
  draining_ = true;
  mailbox_.Post([this, end = clock_.Now() + timeout] {
    for (auto& [id, request] : requests_) request.end = end;
  });
}

void FakeEngine::Fail(const absl::Status& why) {
  mailbox_.Post([this, why] {
    {
      MutexLock lock(mutex_);
      failure_ = why;
    }
    while (!requests_.empty()) Finish(requests_.begin(), why, FinishReason::kUnspecified);
  });
}

EngineLoad FakeEngine::Load() const {
  ++loads_;
  EngineLoad load;
  load.running = running_;
  load.waiting = open_ - running_ + (stuck_ ? 1 : 0) + paused_waiting_;
  load.paused_waiting = paused_waiting_;
  load.paused = paused_now_;
  load.blocks_in_use = running_;
  load.num_blocks = limits_.num_blocks;
  load.block_size = limits_.block_size;
  load.steps = stuck_ ? 1 : steps_.load();
  load.layers = layers_;
  load.draining = draining_;
  MutexLock lock(mutex_);
  load.failure = failure_;
  return load;
}

GenerateRequest FakeEngine::last_params() const {
  MutexLock lock(mutex_);
  return last_params_;
}

void FakeEngine::StartRequest(RequestId id, Request& request) {
  request.stage = Stage::kPrefill;
  ++running_;
  request.sink->OnStarted(
      {.id = id,
       .prompt_tokens = static_cast<int32_t>(request.prepared.prompt_ids.size()),
       .cached_tokens = 1,
       .effective = request.prepared.params});
}

bool FakeEngine::Advance(Request& request) {
  const int32_t max_tokens = *request.prepared.params.stopping.max_tokens;
  const bool endless = options_.behaviour == Behaviour::kEndless;
  if (!endless && request.generated >= max_tokens) return true;
  const std::vector<int32_t>& prompt = request.prepared.prompt_ids;
  const int32_t id = prompt[request.generated % prompt.size()];
  request.stage = Stage::kDecode;
  ++request.generated;
  ++tokens_;
  Delta delta;
  const char letter = id < 128 ? static_cast<char>(id) : '?';
  delta.text = std::string(options_.bytes_per_token, letter);
  delta.token_ids = {id};
  if (request.prepared.params.response.logprobs >= 0)
    delta.logprobs = {{.id = id, .logprob = -0.5f, .top = {{id, -0.5f}}}};
  if (options_.observer != nullptr) {
    if (request.generated == 1) options_.observer->OnFirstToken(std::chrono::milliseconds(1));
    if (request.generated > 1) options_.observer->OnInterToken(std::chrono::milliseconds(1));
  }
  if (request.sink->OnDelta(std::move(delta)) == TokenSink::Room::kFull) {
    request.paused = true;
    ++paused_now_;
    ++paused_times_;
  }
  return !endless && request.generated >= max_tokens;
}

void FakeEngine::Finish(Requests::iterator it, absl::Status status, FinishReason reason) {
  Request request = std::move(it->second);
  const RequestId id = it->first;
  requests_.erase(it);
  if (request.stage != Stage::kQueued) --running_;
  if (request.paused) --paused_now_;
  Outcome outcome;
  outcome.status = std::move(status);
  outcome.finish_reason = reason;
  outcome.stage = request.stage;
  outcome.usage = {.prompt_tokens = static_cast<int32_t>(request.prepared.prompt_ids.size()),
                   .cached_tokens = 1,
                   .completion_tokens = request.generated};
  outcome.timings.queue = std::chrono::milliseconds(3);
  if (options_.observer != nullptr) options_.observer->OnFinished(id, outcome);
  // Before the client hears of it, so that a test which waited for the client may look here.
  --open_;
  request.sink->OnFinished(outcome);
}

void FakeEngine::Expire() {
  const Instant now = clock_.Now();
  for (auto it = requests_.begin(); it != requests_.end();) {
    auto here = it++;
    const Request& request = here->second;
    const auto& deadline = request.prepared.params.deadline;
    if (options_.keeps_deadlines && deadline.has_value() && now >= *deadline) {
      Finish(here, absl::DeadlineExceededError("the deadline passed"), FinishReason::kUnspecified);
    } else if (request.end.has_value() && now >= *request.end) {
      const bool started = request.stage != Stage::kQueued;
      Finish(here, started ? absl::OkStatus() : absl::UnavailableError("the engine is draining"),
             started ? FinishReason::kDrained : FinishReason::kUnspecified);
    }
  }
}

void FakeEngine::Step() {
  ++steps_;
  if (options_.observer != nullptr) {
    options_.observer->OnStep(
        {.step = std::chrono::microseconds(10), .batch_tokens = 1, .batch_sequences = 1});
  }
  for (auto it = requests_.begin(); it != requests_.end();) {
    auto here = it++;
    if (here->second.stage == Stage::kQueued || here->second.paused) continue;
    if (Advance(here->second)) Finish(here, absl::OkStatus(), FinishReason::kMaxTokens);
  }
}

void FakeEngine::Run() {
  const bool runs =
      options_.behaviour == Behaviour::kComplete || options_.behaviour == Behaviour::kEndless;
  while (!stopping_) {
    if (stuck_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    const bool busy =
        runs && std::any_of(requests_.begin(), requests_.end(), [](const auto& entry) {
          return entry.second.stage != Stage::kQueued && !entry.second.paused;
        });
    // A millisecond is how exact its deadlines are.
    if (!busy) mailbox_.Wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(1));
    for (auto& command : mailbox_.Take()) command();
    Expire();
    if (busy) Step();
  }
  while (!requests_.empty()) {
    Finish(requests_.begin(), absl::CancelledError("the engine stops"), FinishReason::kUnspecified);
  }
}

}  // namespace nibble
