// Log lines: one JSON object a line, on stderr, by spdlog. Passed in by argument like the clock, so
// that a test can read what was logged. Writing never waits for the disk: lines queue for a thread
// of the log's own, and the oldest are dropped when it cannot keep up. Any thread may write.
//
//   {"time":"2026-11-23T16:02:11.402Z","level":"info","event":"request_finished","request_id":"5e0c-7","tokens":128}
//
// Never log what a user wrote: no prompt, no completion, no stop string.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"

namespace spdlog {
class logger;
namespace details {
class thread_pool;
}
}  // namespace spdlog

namespace nibble {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError, kOff };

absl::string_view LogLevelName(LogLevel level);  // "debug" "info" "warning" "error" "off"

// "key": value of one line. Borrows its text for the length of the call.
struct LogField {
  LogField(absl::string_view k, absl::string_view v) : key(k), value(v) {}
  LogField(absl::string_view k, const char* v) : key(k), value(absl::string_view(v)) {}
  LogField(absl::string_view k, const std::string& v) : key(k), value(absl::string_view(v)) {}
  LogField(absl::string_view k, bool v) : key(k), value(v) {}
  LogField(absl::string_view k, double v) : key(k), value(v) {}
  LogField(absl::string_view k, int32_t v) : key(k), value(int64_t{v}) {}
  LogField(absl::string_view k, int64_t v) : key(k), value(v) {}
  LogField(absl::string_view k, uint64_t v) : key(k), value(static_cast<int64_t>(v)) {}

  absl::string_view key;
  std::variant<absl::string_view, int64_t, double, bool> value;
};

class Log {
 public:
  static std::shared_ptr<Log> ToStderr(LogLevel level);
  // Hands every line, without its newline, to `take` before Write returns. For tests.
  static std::shared_ptr<Log> ToFunction(LogLevel level,
                                         std::function<void(const std::string&)> take);
  ~Log();  // writes what is queued

  // `event` is a fixed word in snake_case; what varies goes into fields. Keys are fixed words too.
  void Write(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields = {});
  // Past the queue, and written when it returns: for the last line before the process ends.
  void WriteLast(LogLevel level, absl::string_view event,
                 std::initializer_list<LogField> fields = {});
  void Debug(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kDebug, event, fields);
  }
  void Info(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kInfo, event, fields);
  }
  void Warning(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kWarning, event, fields);
  }
  void Error(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kError, event, fields);
  }

  // Takes effect at once, for every thread.
  void set_level(LogLevel level);
  LogLevel level() const;

 private:
  Log(std::shared_ptr<spdlog::details::thread_pool> pool, std::shared_ptr<spdlog::logger> logger,
      std::shared_ptr<spdlog::logger> direct, LogLevel level);
  void WriteWith(spdlog::logger& logger, LogLevel level, absl::string_view event,
                 std::initializer_list<LogField> fields);

  std::shared_ptr<spdlog::details::thread_pool> pool_;  // null: lines are written by the caller
  std::shared_ptr<spdlog::logger> logger_;
  std::shared_ptr<spdlog::logger> direct_;  // writes on the caller's thread, to the same place
};

// Appends `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD.
void AppendJsonString(absl::string_view text, std::string* out);

}  // namespace nibble
