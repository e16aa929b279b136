#include "server/stream_writer.h"

#include <optional>
#include <utility>

namespace nibble {

StreamWriter::StreamWriter() : thread_([this] { Run(); }) {}

StreamWriter::~StreamWriter() {
  posted_.Post(nullptr);
  thread_.join();
}

void StreamWriter::Run() {
  while (true) {
    posted_.Wait(std::nullopt);
    for (std::shared_ptr<StreamSink>& sink : posted_.Take()) {
      if (sink == nullptr) return;
      // Given up here, not at the end of the batch: a sink holds its call's record.
      std::exchange(sink, nullptr)->WritePosted();
    }
  }
}

}  // namespace nibble
