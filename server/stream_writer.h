// The thread that hands the streams' messages to gRPC. The engine's thread, whose every microsecond
// is one of all its sequences, only posts: a write costs tens of microseconds, most of them in the
// kernel, and there is one for each token of each stream.
//
// One thread, for gRPC takes the writes of a connection one after the other anyway. While it is
// behind, what the engine says is merged in the sinks, so it never has more to do than one message
// a stream.
#pragma once

#include <memory>
#include <thread>

#include "engine/base/mailbox.h"
#include "server/stream_sink.h"

namespace nibble {

class StreamWriter {
 public:
  StreamWriter();
  // Writes what was posted before, then ends the thread. Nothing may be posted any more.
  ~StreamWriter();
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;

  // Any thread; never waits. Holds `sink`, at most one entry each (StreamSink sees to that), until
  // its WritePosted was called.
  void Post(std::shared_ptr<StreamSink> sink) { posted_.Post(std::move(sink)); }

 private:
  void Run();

  Mailbox<std::shared_ptr<StreamSink>> posted_;  // null: the end
  std::thread thread_;
};

}  // namespace nibble
