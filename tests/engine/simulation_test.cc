// The engine under everything that can happen to it at once, thousands of times: submits, cancels,
// deadlines, slow clients, priorities, blocks running out, drain, a broken device. One seed decides
// it all and is printed when anything is wrong: NIBBLE_SIM_SEED=n runs that one alone,
// NIBBLE_SIM_SEEDS=n runs as many.
//
// What every request should get is known from ScriptedRunner's formula alone, without an engine: so
// batched = solo, preempted = not preempted, cached = not cached, token for token.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/engine_loop.h"
#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/recording_sink.h"
#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

constexpr int kMaxSteps = 20000;  // far above what any seed needs: more is a livelock
constexpr Duration kStepTime = std::chrono::milliseconds(1);

// What happened over all seeds, to prove that the simulation reaches what it is for.
struct Coverage {
  int64_t requests = 0, ok = 0, cancelled = 0, expired = 0, exhausted = 0, too_slow = 0;
  int64_t unavailable = 0, failed = 0, drained = 0, time_limit = 0, preemptions = 0, cached = 0;
  int64_t pauses = 0, stop_strings = 0, stop_tokens = 0, eos = 0, context = 0, scored = 0;
};

class CountingObserver final : public EngineObserver {
 public:
  void OnPreempted(RequestId) override { ++preempted; }
  void OnFinished(RequestId id, const Outcome&) override { finished.insert(id); }
  int64_t preempted = 0;
  std::multiset<RequestId> finished;
};

struct Client {
  RequestId id = 0;
  PreparedRequest request;
  std::shared_ptr<RecordingSink> sink;
  bool full = false;  // said kFull and did not resume
  bool cancelled = false;
};

class Simulation {
 public:
  Simulation(uint64_t seed, Coverage& coverage) : random_(seed), coverage_(coverage) {
    ScriptedOptions script;
    script.limits.block_size = 1 << Draw(0, 3);
    script.limits.max_context = Draw(16, 64);
    script.limits.num_blocks = Draw(24, 160) / script.limits.block_size;
    script.limits.max_sequences = Draw(1, 8);
    script.limits.max_batch_tokens = Draw(8, 32);
    script.eos_every = Chance(50) ? 12 : 0;
    letters_ = Chance(70);
    if (!letters_) {
      script.first_id = 0;
      script.num_ids = FakeTokenizer::kVocabSize;
    }
    runner_ = std::make_unique<ScriptedRunner>(script);
    runner_->set_before_step([this](const Batch& batch) { BeforeStep(batch); });
    EngineOptions options;
    options.max_running = Draw(1, 8);
    options.max_batch_tokens = Draw(8, 32);
    options.prefix_cache = Chance(70);
    options.pause_timeout = kStepTime * Draw(5, 60);
    options.seed = seed + 1;
    loop_ = *EngineLoop::Create({runner_.get(), &tokenizer_, &clock_, &observer_}, options);
  }

  void Run() {
    const int num_requests = Draw(1, 16);
    const int fail_at = Chance(8) ? Draw(1, 40) : -1;
    const int drain_at = Chance(10) ? Draw(1, 40) : -1;
    const int destroy_at = Chance(5) ? Draw(1, 40) : -1;
    if (fail_at > 0 && Chance(50)) runner_->FailAtStep(fail_at);
    if (fail_at > 0 && Chance(50)) runner_->GarbageAtStep(fail_at);
    for (int step = 0; step < kMaxSteps; ++step) {
      if (step == destroy_at) break;
      if (step == drain_at) loop_->Drain(kStepTime * Draw(0, 30));
      while (static_cast<int>(clients_.size()) < num_requests && Chance(40)) Submit();
      Meddle();
      StepOnce();
      if (static_cast<int>(clients_.size()) == num_requests && loop_->Idle()) break;
      ASSERT_LT(step + 1, kMaxSteps) << "livelock:\n" << loop_->DescribeState();
    }
    if (loop_->Idle()) {
      EXPECT_EQ(loop_->Load().blocks_in_use, 0);
      EXPECT_FALSE(loop_->Step()) << "work without requests";
    }
    loop_.reset();  // cancels what is left
    for (const Client& client : clients_) CheckClient(client);
    coverage_.preemptions += observer_.preempted;
  }

 private:
  int Draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool Chance(int percent) { return Draw(1, 100) <= percent; }

  std::vector<int32_t> Prompt() {
    std::vector<int32_t> ids;
    const int family = Draw(0, 2);  // few beginnings, so that they are shared
    const int shared = Draw(0, 16);
    for (int i = 0; i < shared; ++i) ids.push_back('A' + family);
    const int own = Draw(1, 10);
    for (int i = 0; i < own; ++i) ids.push_back('0' + Draw(0, 9));
    const RunnerLimits limits = runner_->limits();
    const int most = std::min(limits.max_context - 1, limits.num_blocks * limits.block_size);
    if (static_cast<int>(ids.size()) > most) ids.resize(most);
    return ids;
  }

  void Submit() {
    Client client;
    client.request.prompt_ids = Prompt();
    GenerateRequest& p = client.request.params;
    p.sampling.seed = Draw(0, 3);
    const int room =
        runner_->limits().max_context - static_cast<int>(client.request.prompt_ids.size());
    p.stopping.max_tokens = Chance(10) ? 0 : Chance(20) ? room : Draw(1, 30);
    p.stopping.min_tokens = Chance(20) ? Draw(0, *p.stopping.max_tokens) : 0;
    p.stopping.ignore_eos = Chance(20);
    p.stopping.include_stop = Chance(30);
    if (Chance(15)) p.stopping.stop_token_ids = {'a' + Draw(0, 25)};
    if (Chance(20)) p.stopping.stop = {std::string(1, 'a' + Draw(0, 25)), "xyz"};
    p.response.logprobs = Chance(20) ? Draw(0, 3) : -1;
    p.response.prompt_logprobs = Chance(20) ? Draw(0, 3) : -1;
    p.response.echo = Chance(10);
    p.priority = Chance(30) ? Draw(-1, 1) : 0;
    p.cache_salt = Chance(20) ? "other" : "";
    if (Chance(15)) p.deadline = clock_.Now() + kStepTime * Draw(0, 40);
    if (Chance(10)) p.time_limit = kStepTime * Draw(1, 40);
    client.sink = std::make_shared<RecordingSink>();
    if (Chance(15)) MakeSlow(*client.sink, clients_.size());
    client.id = loop_->Submit(client.request, client.sink);
    clients_.push_back(std::move(client));
    ++coverage_.requests;
  }

  void MakeSlow(RecordingSink& sink, size_t index) {
    sink.set_room([this, index] {
      if (!Chance(30)) return TokenSink::Room::kReady;
      ++coverage_.pauses;
      clients_[index].full = true;
      return TokenSink::Room::kFull;
    });
  }

  void Meddle() {
    for (Client& client : clients_) {
      if (Chance(1)) {
        loop_->Cancel(client.id);
        client.cancelled = true;
      }
      if (client.full && Chance(10)) {
        loop_->Resume(client.id);
        client.full = false;
      }
    }
    if (Chance(2)) loop_->Cancel(99999);
    if (Chance(2)) loop_->Resume(99999);
  }

  void StepOnce() {
    const Instant before = clock_.Now();
    const bool ran = loop_->Step();
    const absl::Status integrity = loop_->CheckIntegrity();
    ASSERT_TRUE(integrity.ok()) << integrity << "\n" << loop_->DescribeState();
    for (const auto& [id, s] : loop_->scheduler().sequences()) {
      ASSERT_TRUE(!s->params.deadline || *s->params.deadline > before) << "outlived its deadline";
      ASSERT_FALSE(clients_[id - 1].cancelled) << "outlived its cancellation";
    }
    EXPECT_EQ(loop_->Load().blocks_in_use, loop_->scheduler().counts().blocks_in_use);
    if (ran || loop_->Idle()) return;
    // Only the clock or a slow client can move things on; otherwise somebody is stuck.
    bool can_resume = false;
    for (const Client& client : clients_) can_resume |= client.full;
    ASSERT_TRUE(loop_->NextEvent().has_value() || can_resume) << "deadlock:\n"
                                                              << loop_->DescribeState();
    clock_.Advance(kStepTime);
  }

  // Nobody is started while somebody who goes first waits.
  void BeforeStep(const Batch& batch) {
    clock_.Advance(kStepTime);
    for (const BatchRow& row : batch.rows) {
      if (!started_.insert(row.sequence_id).second) continue;
      const Sequence* newcomer = loop_->scheduler().Find(row.sequence_id);
      for (const auto& [id, other] : loop_->scheduler().sequences()) {
        if (other->running || other->paused) continue;
        EXPECT_TRUE(GoesFirst()(newcomer, other.get())) << row.sequence_id << " overtook " << id;
      }
    }
  }

  // What the request gets if nothing disturbs it.
  struct Expected {
    std::vector<int32_t> tokens;
    std::string text;
    Ending ending;
  };
  Expected Expect(const PreparedRequest& request) const {
    Expected out;
    Sequence s(1, request, tokenizer_.end_of_generation_ids(), Instant{});
    TextStream text(tokenizer_, request.params.stopping.stop, request.params.stopping.include_stop);
    if (request.params.response.echo) out.text = *tokenizer_.Decode(request.prompt_ids, false);
    std::optional<Ending> ending = s.FindEnding(runner_->limits().max_context);
    while (!ending) {
      s.tokens.push_back(runner_->NextToken(s.tokens, s.params.sampling, s.forbidden()));
      const int32_t id = s.tokens.back();
      out.tokens.push_back(id);
      ending = s.FindEnding(runner_->limits().max_context);
      if (ending && ending->matched_token >= 0) {
        const bool keep =
            ending->reason == FinishReason::kStopToken && s.params.stopping.include_stop;
        const std::string own = keep ? text.Append(id).text : "";
        absl::StrAppend(&out.text, own, text.Finish());
        break;
      }
      const TextStream::Step step = text.Append(id);
      out.text += step.text;
      if (step.stop_index >= 0) {
        ending = Ending{FinishReason::kStopSequence, -1, s.params.stopping.stop[step.stop_index]};
      } else if (ending) {
        out.text += text.Finish();
      }
    }
    out.ending = *ending;
    return out;
  }

  void CheckClient(const Client& client) {
    SCOPED_TRACE(absl::StrCat("request ", client.id));
    EXPECT_EQ(client.sink->violation(), "");
    ASSERT_EQ(client.sink->finished(), 1);
    EXPECT_EQ(observer_.finished.count(client.id), 1u);
    const Outcome outcome = *client.sink->outcome();
    const std::vector<int32_t> tokens = client.sink->tokens();
    EXPECT_EQ(outcome.usage.completion_tokens, static_cast<int>(tokens.size()));
    EXPECT_EQ(outcome.usage.prompt_tokens, static_cast<int>(client.request.prompt_ids.size()));
    EXPECT_EQ(outcome.stage != Stage::kQueued || outcome.status.ok(),
              client.sink->started().has_value());
    const Expected expected = Expect(client.request);
    ASSERT_LE(tokens.size(), expected.tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) ASSERT_EQ(tokens[i], expected.tokens[i]) << i;
    EXPECT_TRUE(!letters_ || absl::StartsWith(expected.text, client.sink->text()));
    CheckLogprobs(client, tokens);
    CheckOutcome(client, outcome, expected);
  }

  void CheckLogprobs(const Client& client, const std::vector<int32_t>& tokens) {
    const ResponseParams& response = client.request.params.response;
    std::vector<int32_t> history = client.request.prompt_ids;
    if (response.prompt_logprobs >= 0 && !client.sink->deltas().empty() && !tokens.empty()) {
      const auto scored = client.sink->prompt_logprobs();
      ASSERT_EQ(scored.size(), history.size());
      EXPECT_FALSE(scored[0].has_value());
      for (size_t p = 1; p < scored.size(); ++p) {
        const absl::Span<const int32_t> before(history.data(), p);
        EXPECT_EQ(scored[p]->id, history[p]);
        EXPECT_EQ(scored[p]->logprob, runner_->LogprobOf(before, history[p]));
      }
      ++coverage_.scored;
    }
    const std::vector<Logprob> logprobs = client.sink->logprobs();
    ASSERT_EQ(logprobs.size(), response.logprobs >= 0 ? tokens.size() : 0);
    for (size_t i = 0; i < logprobs.size(); ++i) {
      EXPECT_EQ(logprobs[i].logprob, runner_->LogprobOf(history, tokens[i]));
      EXPECT_EQ(logprobs[i].top.size(), static_cast<size_t>(response.logprobs));
      history.push_back(tokens[i]);
    }
  }

  void CheckOutcome(const Client& client, const Outcome& outcome, const Expected& expected) {
    const RunnerLimits limits = runner_->limits();
    coverage_.cached += outcome.usage.cached_tokens > 0;
    switch (outcome.status.code()) {
      case absl::StatusCode::kOk:
        break;
      case absl::StatusCode::kCancelled:
        ++coverage_.cancelled;
        return;
      case absl::StatusCode::kDeadlineExceeded:
        ++coverage_.expired;
        EXPECT_TRUE(client.request.params.deadline.has_value());
        return;
      case absl::StatusCode::kUnavailable:
        ++coverage_.unavailable;
        return;
      case absl::StatusCode::kInternal:
        ++coverage_.failed;
        EXPECT_FALSE(absl::StrContains(outcome.status.message(), "does not hold"));
        EXPECT_FALSE(absl::StrContains(outcome.status.message(), "sequence"));
        return;
      case absl::StatusCode::kResourceExhausted:
        if (absl::StrContains(outcome.status.message(), "reads too slowly")) {
          ++coverage_.too_slow;
          return;
        }
        ++coverage_.exhausted;
        EXPECT_GT(outcome.usage.prompt_tokens + outcome.usage.completion_tokens,
                  limits.num_blocks * limits.block_size);
        return;
      default:
        FAIL() << outcome.status;
    }
    ++coverage_.ok;
    if (outcome.finish_reason == FinishReason::kDrained) {
      ++coverage_.drained;
      return;
    }
    if (outcome.finish_reason == FinishReason::kDeadline) {
      ++coverage_.time_limit;
      return;
    }
    EXPECT_EQ(outcome.finish_reason, expected.ending.reason);
    EXPECT_EQ(outcome.matched_token, expected.ending.matched_token);
    EXPECT_EQ(outcome.matched_stop, expected.ending.matched_stop);
    EXPECT_EQ(client.sink->tokens(), expected.tokens);
    EXPECT_EQ(client.sink->text(), expected.text);
    coverage_.stop_strings += outcome.finish_reason == FinishReason::kStopSequence;
    coverage_.stop_tokens += outcome.finish_reason == FinishReason::kStopToken;
    coverage_.eos += outcome.finish_reason == FinishReason::kEos;
    coverage_.context += outcome.finish_reason == FinishReason::kContextLength;
  }

  std::mt19937_64 random_;
  Coverage& coverage_;
  bool letters_ = true;
  FakeClock clock_;
  FakeTokenizer tokenizer_;
  CountingObserver observer_;
  std::unique_ptr<ScriptedRunner> runner_;
  std::unique_ptr<EngineLoop> loop_;
  std::vector<Client> clients_;
  std::set<RequestId> started_;
};

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

TEST(SimulationTest, EveryRequestGetsItsOwnTokensOnceWhateverHappens) {
  Coverage c;
  const int64_t only = FromEnvironment("NIBBLE_SIM_SEED", -1);
  const int64_t num_seeds = FromEnvironment("NIBBLE_SIM_SEEDS", 6000);
  const int64_t first = only >= 0 ? only : 1;
  const int64_t last = only >= 0 ? only : num_seeds;
  for (int64_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE(absl::StrCat("NIBBLE_SIM_SEED=", seed));
    Simulation(seed, c).Run();
    if (HasFailure()) break;  // the first is enough to look at
  }
  std::printf(
      "seeds %ld to %ld: requests %ld: ok %ld (eos %ld, stop string %ld, stop token %ld, context "
      "%ld, "
      "time limit %ld, drained %ld), cancelled %ld, expired %ld, exhausted %ld, too slow %ld, "
      "unavailable %ld, failed %ld; preemptions %ld, pauses %ld, cached %ld, scored %ld\n",
      first, last, c.requests, c.ok, c.eos, c.stop_strings, c.stop_tokens, c.context, c.time_limit,
      c.drained, c.cancelled, c.expired, c.exhausted, c.too_slow, c.unavailable, c.failed,
      c.preemptions, c.pauses, c.cached, c.scored);
  if (only >= 0 || num_seeds < 6000 || HasFailure()) return;
  for (int64_t reached : {c.cancelled, c.expired, c.exhausted, c.too_slow, c.unavailable, c.failed,
                          c.drained, c.time_limit, c.preemptions, c.cached, c.pauses, c.eos,
                          c.stop_strings, c.stop_tokens, c.context, c.scored}) {
    EXPECT_GT(reached, 100) << "the simulation no longer reaches what it is for";
  }
}

}  // namespace
}  // namespace nibble
