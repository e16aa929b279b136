// The buffer between engine and client, driven by hand: no gRPC, no threads but where a race is the
// subject.
#include "server/stream_sink.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "server/open_calls.h"
#include "server/stream_writer.h"
#include "tests/server/fake_engine.h"

namespace nibble {
namespace {

class FakeTransport final : public StreamTransport {
 public:
  void Write(const v1::GenerateStreamResponse& message) override {
    EXPECT_FALSE(writing) << "one write at a time";
    EXPECT_EQ(ends, 0) << "nothing after End";
    writing = true;
    written.push_back(message);
  }
  void End(const v1::GenerateStreamResponse* last, const WireStatus& how) override {
    EXPECT_FALSE(writing) << "End waits for the write in flight";
    if (last != nullptr) written.push_back(*last);
    status = how;
    ++ends;
  }
  void Abort() override { ++aborts; }

  bool writing = false;
  std::vector<v1::GenerateStreamResponse> written;
  WireStatus status;
  int ends = 0;
  int aborts = 0;
};

class StreamSinkTest : public ::testing::Test {
 protected:
  StreamSinkTest() { Make(); }
  ~StreamSinkTest() override { sink_->Detach(); }

  void Make(int32_t interval = 1, int64_t max_bytes = 100) {
    if (sink_ != nullptr) sink_->Detach();
    transport_ = FakeTransport();
    record_ = std::make_shared<CallRecord>(parts_, "GenerateStream", "peer");
    sink_ = std::make_shared<StreamSink>(
        &transport_, &engine_, record_, clock_,
        [this](std::shared_ptr<StreamSink> sink) { Posted(std::move(sink)); },
        StreamSink::Options{.model = "m",
                            .params = {.delta_interval_tokens = interval},
                            .max_buffer_bytes = max_bytes});
  }
  // Written at once, or when the test says so.
  void Posted(std::shared_ptr<StreamSink> sink) {
    if (!hold_posted_) return sink->WritePosted();
    held_.push_back(std::move(sink));
  }
  void Start() { sink_->OnStarted({.id = 77, .prompt_tokens = 3}); }
  TokenSink::Room Say(const std::string& text, int32_t id = 1) {
    Delta delta;
    delta.text = text;
    delta.token_ids = {id};
    return sink_->OnDelta(std::move(delta));
  }
  void FinishWell() {
    Outcome outcome;
    outcome.finish_reason = FinishReason::kEos;
    sink_->OnFinished(outcome);
  }
  void FinishWith(absl::Status status) {
    Outcome outcome;
    outcome.status = std::move(status);
    sink_->OnFinished(outcome);
  }
  // The transport's write comes back.
  void Written(bool ok = true) {
    ASSERT_TRUE(transport_.writing);
    transport_.writing = false;
    sink_->WriteDone(ok);
  }

  FakeClock clock_;
  ServerOptions options_;
  std::shared_ptr<Log> log_ = Log::ToFunction(LogLevel::kOff, [](const std::string&) {});
  std::unique_ptr<Metrics> metrics_ = *Metrics::Create("m", "");
  Admission admission_{options_.limits};
  ServingState state_;
  RequestIds ids_;
  OpenCalls open_calls_;
  StreamWriter writer_;
  ServerParts parts_{options_, clock_, *log_,       *metrics_,  admission_,
                     state_,   ids_,   open_calls_, admission_, writer_};
  FakeEngine engine_{clock_, {}};
  FakeTransport transport_;
  std::shared_ptr<CallRecord> record_;
  std::shared_ptr<StreamSink> sink_;
  bool hold_posted_ = false;
  std::vector<std::shared_ptr<StreamSink>> held_;
};

TEST_F(StreamSinkTest, WhatComesDuringAWriteIsMergedIntoTheNext) {
  Start();
  ASSERT_EQ(transport_.written.size(), 1u);
  Say("a");
  Say("b");
  Say("c");
  EXPECT_EQ(transport_.written.size(), 1u);
  Written();
  ASSERT_EQ(transport_.written.size(), 2u);
  EXPECT_EQ(transport_.written[1].delta().text(), "abc");
  EXPECT_EQ(transport_.written[1].delta().token_ids_size(), 3);
}

TEST_F(StreamSinkTest, FinishedWaitsForAllThatWasSaidBefore) {
  Start();
  Say("a");
  FinishWell();
  EXPECT_EQ(transport_.ends, 0);
  Written();
  EXPECT_EQ(transport_.ends, 0);
  Written();
  ASSERT_EQ(transport_.ends, 1);
  EXPECT_TRUE(transport_.written.back().has_finished());
  EXPECT_TRUE(transport_.status.status.ok());
}

TEST_F(StreamSinkTest, AnErrorStillDeliversWhatWasSaidAndHasNoFinished) {
  Start();
  Say("a");
  FinishWith(absl::DeadlineExceededError("late"));
  Written();
  Written();
  ASSERT_EQ(transport_.ends, 1);
  EXPECT_TRUE(transport_.written.back().has_delta());
  EXPECT_EQ(transport_.status.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(StreamSinkTest, ARequestThatNeverStartedOnlyEnds) {
  FinishWith(absl::CancelledError("queued"));
  EXPECT_TRUE(transport_.written.empty());
  EXPECT_EQ(transport_.ends, 1);
}

TEST_F(StreamSinkTest, AFullBufferPausesAndDrainingItResumes) {
  Start();
  EXPECT_EQ(Say(std::string(50, 'x')), TokenSink::Room::kReady);
  EXPECT_EQ(Say(std::string(50, 'x')), TokenSink::Room::kFull);
  Written();
  EXPECT_EQ(transport_.written.back().delta().text().size(), 100u);
  EXPECT_EQ(Say("y"), TokenSink::Room::kReady) << "the buffer was handed over";
}

// Its buffer is never handed over while something is on its way, so it must not be called full
// before.
TEST_F(StreamSinkTest, ABufferThatCanBeSentAtOnceIsNotFull) {
  Start();
  Written();
  EXPECT_EQ(Say(std::string(5000, 'x')), TokenSink::Room::kReady);
  EXPECT_TRUE(transport_.writing);
}

// However much is said before the writer comes to it.
TEST_F(StreamSinkTest, IsPostedOnceUntilItIsWritten) {
  hold_posted_ = true;
  Start();
  EXPECT_EQ(Say("a"), TokenSink::Room::kReady);
  Say("b");
  ASSERT_EQ(held_.size(), 1u);
  EXPECT_TRUE(transport_.written.empty()) << "the engine's thread does not write";
  held_[0]->WritePosted();
  Say("c");
  EXPECT_EQ(held_.size(), 1u) << "a write is in flight and looks for more when it comes back";
  Written();
  ASSERT_EQ(transport_.written.size(), 2u);
  EXPECT_EQ(transport_.written[1].delta().text(), "abc");
  Written();
  FinishWell();
  ASSERT_EQ(held_.size(), 2u);
  EXPECT_EQ(transport_.ends, 0);
  held_[1]->WritePosted();
  EXPECT_EQ(transport_.ends, 1);
}

TEST_F(StreamSinkTest, ABufferThatWaitsForTheWriterIsFullAtItsBoundToo) {
  Start();
  Written();
  hold_posted_ = true;
  EXPECT_EQ(Say(std::string(50, 'x')), TokenSink::Room::kReady);
  EXPECT_EQ(Say(std::string(50, 'x')), TokenSink::Room::kFull);
  ASSERT_EQ(held_.size(), 1u);
  held_[0]->WritePosted();
  EXPECT_EQ(transport_.written.back().delta().text().size(), 100u);
}

TEST_F(StreamSinkTest, TheIntervalHoldsBackUntilEnoughTokensOrTheEnd) {
  Make(/*interval=*/3);
  Start();
  Written();
  Say("a");  // the first goes at once
  Written();
  hold_posted_ = true;
  Say("b");
  Say("c");
  EXPECT_TRUE(held_.empty()) << "nor is anybody woken for them";
  hold_posted_ = false;
  Say("d");
  ASSERT_TRUE(transport_.writing);
  EXPECT_EQ(transport_.written.back().delta().text(), "bcd");
  Written();
  Say("e");
  FinishWell();
  Written();
  EXPECT_EQ(transport_.ends, 1);
  EXPECT_EQ(transport_.written[transport_.written.size() - 2].delta().text(), "e");
}

// With large log-probabilities the bytes are there long before the tokens.
TEST_F(StreamSinkTest, TheIntervalDoesNotOutgrowTheBuffer) {
  Make(/*interval=*/1000);
  Start();
  Written();
  Say("a");
  Written();
  Say(std::string(100, 'x'));
  EXPECT_TRUE(transport_.writing);
}

TEST_F(StreamSinkTest, AClientThatLeftHearsNothingMoreAndEndsOnce) {
  Start();
  Say("a");
  sink_->ClientLeft();
  Written(/*ok=*/false);
  EXPECT_EQ(Say("b"), TokenSink::Room::kReady);
  EXPECT_EQ(transport_.ends, 0) << "the engine has not answered yet";
  FinishWell();  // it was faster than the cancellation
  EXPECT_EQ(transport_.ends, 1);
  EXPECT_EQ(transport_.written.size(), 1u);
  EXPECT_EQ(transport_.status.status.error_code(), grpc::StatusCode::CANCELLED)
      << "nothing was delivered";
}

TEST_F(StreamSinkTest, ACancelBeforeTheIdIsKnownReachesTheEngineLater) {
  FakeEngine engine(clock_, {.behaviour = FakeEngine::Behaviour::kHoldQueued});
  EngineCall call(&engine);
  call.Cancel();
  auto prepared = engine.Prepare({.prompt = TextPrompt{"x"}});
  ASSERT_TRUE(prepared.ok());
  Make();
  const RequestId id = engine.Submit(*std::move(prepared), sink_);
  call.SetId(id);
  while (engine.open() != 0) std::this_thread::yield();
}

TEST_F(StreamSinkTest, OnlyAStreamThatStandsStillIsAborted) {
  Start();
  Written();
  EXPECT_FALSE(sink_->AbortIfStuckSince(clock_.Now())) << "nothing is on its way";
  Say("a");
  EXPECT_FALSE(sink_->AbortIfStuckSince(clock_.Now() - std::chrono::seconds(1)));
  clock_.Advance(std::chrono::minutes(1));
  EXPECT_TRUE(sink_->AbortIfStuckSince(clock_.Now() - std::chrono::seconds(1)));
  EXPECT_EQ(transport_.aborts, 1);
  FinishWell();
  Written(false);
  sink_->Detach();
  EXPECT_FALSE(sink_->AbortIfStuckSince(clock_.Now())) << "the transport is gone";
}

TEST_F(StreamSinkTest, OnlyAnAnswerThatNobodyTakesIsAborted) {
  int aborts = 0;
  auto answer = std::make_shared<UnaryAnswer>([&] { ++aborts; });
  open_calls_.Add(answer);
  clock_.Advance(std::chrono::hours(1));
  EXPECT_EQ(open_calls_.AbortStuckSince(clock_.Now()), 0) << "the engine is still at it";
  answer->Sending(clock_.Now());
  EXPECT_EQ(open_calls_.AbortStuckSince(clock_.Now() - std::chrono::seconds(1)), 0);
  EXPECT_EQ(open_calls_.AbortStuckSince(clock_.Now()), 1);
  EXPECT_EQ(open_calls_.AbortStuckSince(clock_.Now()), 0) << "once is enough";
  EXPECT_EQ(aborts, 1);
  auto gone = std::make_shared<UnaryAnswer>([&] { ++aborts; });
  open_calls_.Add(gone);
  gone->Sending(clock_.Now());
  gone->Gone();
  EXPECT_EQ(open_calls_.AbortStuckSince(clock_.Now()), 0);
  EXPECT_EQ(aborts, 1);
}

TEST_F(StreamSinkTest, TheTicketGoesBackInTwoSteps) {
  record_->set_ticket(*admission_.Admit(10, 20));
  Start();
  EXPECT_EQ(admission_.counts().queued_prompt_tokens, 0);
  EXPECT_EQ(admission_.counts().open_requests, 1);
  Written();
  FinishWell();
  EXPECT_EQ(admission_.counts().open_requests, 1) << "until the transport is done with it";
  sink_->Detach();
  EXPECT_EQ(admission_.counts().open_requests, 0);
}

TEST_F(StreamSinkTest, TheWritersEndWritesWhatWasPosted) {
  for (int round = 0; round < 50; ++round) {
    std::vector<FakeTransport> transports(8);
    std::vector<std::shared_ptr<StreamSink>> sinks;
    {
      StreamWriter writer;
      for (FakeTransport& transport : transports) {
        auto record = std::make_shared<CallRecord>(parts_, "GenerateStream", "peer");
        sinks.push_back(std::make_shared<StreamSink>(
            &transport, &engine_, record, clock_,
            [&writer](std::shared_ptr<StreamSink> sink) { writer.Post(std::move(sink)); },
            StreamSink::Options{}));
        Outcome outcome;
        outcome.status = absl::CancelledError("x");
        sinks.back()->OnFinished(outcome);
      }
    }
    for (const FakeTransport& transport : transports) EXPECT_EQ(transport.ends, 1);
    for (const auto& sink : sinks) {
      EXPECT_EQ(sink.use_count(), 1) << "the writer keeps none";
      sink->Detach();
    }
  }
}

// The engine speaks, the transport's writes come back and the client leaves, all at the same time.
TEST_F(StreamSinkTest, RacesEndExactlyOnce) {
  // Completes writes on a thread of its own.
  class Threaded final : public StreamTransport {
   public:
    void Write(const v1::GenerateStreamResponse&) override { ++writes; }
    void End(const v1::GenerateStreamResponse*, const WireStatus&) override { ++ends; }
    void Abort() override {}
    std::atomic<int> writes{0};
    std::atomic<int> ends{0};
  };
  for (int round = 0; round < 200; ++round) {
    Threaded transport;
    auto record = std::make_shared<CallRecord>(parts_, "GenerateStream", "peer");
    auto sink = std::make_shared<StreamSink>(
        &transport, &engine_, record, clock_,
        [this](std::shared_ptr<StreamSink> posted) { writer_.Post(std::move(posted)); },
        StreamSink::Options{});
    std::thread engine([&] {
      sink->OnStarted({.id = 1});
      for (int i = 0; i < 20; ++i) {
        Delta delta;
        delta.text = "x";
        sink->OnDelta(std::move(delta));
      }
      Outcome outcome;
      outcome.finish_reason = FinishReason::kEos;
      sink->OnFinished(outcome);
    });
    std::thread client([&] {
      for (int done = 0; transport.ends == 0;) {
        if (transport.writes > done) {
          ++done;
          sink->WriteDone(round % 3 != 0 || done < 5);
        }
      }
    });
    std::thread leaver([&] {
      if (round % 2 == 0) sink->ClientLeft();
    });
    engine.join();
    client.join();
    leaver.join();
    EXPECT_EQ(transport.ends, 1) << "round " << round;
    sink->Detach();
  }
}

}  // namespace
}  // namespace nibble
