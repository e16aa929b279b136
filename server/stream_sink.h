// The buffer between the engine thread, which never waits, and a client, which may. The engine
// thread does not write either: it posts the sink to whoever does (stream_writer.h). One message is
// on the wire at a time; what the engine says meanwhile is merged into the next, so a slow client
// gets fewer and larger deltas. What is buffered is bounded: past the bound OnDelta answers kFull,
// and the sequence resumes when the buffer was handed over.
//
// Life: created for a transport, given to Engine::Submit, and told by the transport of WriteDone,
// ClientLeft and Detach. It calls transport.End exactly once, never while a write is in flight, and
// not before OnFinished.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/request.h"
#include "server/call_record.h"
#include "server/convert.h"
#include "server/engine_call.h"
#include "server/open_calls.h"

namespace nibble {

// What carries the messages; it stays alive from construction until it called StreamSink::Detach.
class StreamTransport {
 public:
  virtual ~StreamTransport() = default;
  // `message` stays until WriteDone. Not called again before.
  virtual void Write(const v1::GenerateStreamResponse& message) = 0;
  // The last call but Abort. `last` may be null and stays until Detach.
  virtual void End(const v1::GenerateStreamResponse* last, const WireStatus& status) = 0;
  // Drops the connection's stream, so that a write in flight comes back.
  virtual void Abort() = 0;
};

class StreamSink final : public TokenSink,
                         public OpenCall,
                         public std::enable_shared_from_this<StreamSink> {
 public:
  struct Options {
    std::string model;
    StreamParams params;
    int64_t max_buffer_bytes = 64 << 10;
  };

  // Sees to it that WritePosted is called, once for each time and soon. Never waits.
  using Post = std::function<void(std::shared_ptr<StreamSink>)>;

  // To be held by a std::shared_ptr.
  StreamSink(StreamTransport* transport, Engine* engine, std::shared_ptr<CallRecord> record,
             const Clock& clock, Post post, Options options);

  EngineCall& call() { return call_; }

  // The engine thread.
  void OnStarted(const Started& started) override;
  Room OnDelta(Delta delta) override;
  void OnFinished(const Outcome& outcome) override;

  // Whoever it was posted to. Calls the transport.
  void WritePosted();

  // The transport.
  void WriteDone(bool ok);  // not ok: the client left
  void ClientLeft();
  void Detach();  // the transport is about to go; gives the ticket back

  // Aborts a transport that has made no progress since `since`: a client that holds its call open
  // and does not read. True when it did.
  bool AbortIfStuckSince(Instant since) override;

 private:
  // What the transport is to do next, decided under the lock and done outside it.
  struct Action {
    bool write = false;
    bool end = false;
    bool resume = false;
    const v1::GenerateStreamResponse* message = nullptr;
    WireStatus status;
  };

  void PostIfIdle();
  void Pump();
  Action NextAction() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAction(Action* action) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool DeltaIsDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<CallRecord> record_;
  const Clock& clock_;
  const Post post_;
  const Options options_;
  EngineCall call_;

  Mutex mutex_;
  StreamTransport* transport_ ABSL_GUARDED_BY(mutex_);  // null once detached
  v1::GenerateStreamResponse in_flight_;                // the transport's while writing_ or ended_
  std::optional<v1::GenerateStreamResponse> started_ ABSL_GUARDED_BY(mutex_);
  v1::GenerateStreamResponse delta_ ABSL_GUARDED_BY(mutex_);
  int64_t delta_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // about what delta_ holds
  bool has_delta_ ABSL_GUARDED_BY(mutex_) = false;
  bool sent_delta_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Outcome> outcome_ ABSL_GUARDED_BY(mutex_);
  bool posted_ ABSL_GUARDED_BY(mutex_) = false;  // WritePosted is on its way
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool client_left_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Instant progress_
      ABSL_GUARDED_BY(mutex_);  // of the transport: when it last took or gave back something
};

}  // namespace nibble
