#include "engine/base/log.h"

#include <spdlog/async.h>
#include <spdlog/async_logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cmath>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/utf8_character.h"

namespace nibble {
namespace {

constexpr size_t kQueuedLines = 8192;  // about 4 MB of lines before the oldest are dropped
constexpr char kPattern[] = R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l",%v})";
constexpr std::array<absl::string_view, 5> kNames = {"debug", "info", "warning", "error", "off"};

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(const std::string&)> take) : take_(std::move(take)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    take_(fmt::to_string(line));
  }
  void flush_() override {}

  std::function<void(const std::string&)> take_;
};

void AppendValue(const LogField& field, std::string* out) {
  if (const auto* text = std::get_if<absl::string_view>(&field.value)) {
    AppendJsonString(*text, out);
  } else if (const auto* number = std::get_if<int64_t>(&field.value)) {
    absl::StrAppend(out, *number);
  } else if (const auto* real = std::get_if<double>(&field.value)) {
    // JSON has no infinities.
    if (std::isfinite(*real)) {
      absl::StrAppend(out, *real);
    } else {
      out->append("null");
    }
  } else {
    out->append(std::get<bool>(field.value) ? "true" : "false");
  }
}

}  // namespace

absl::string_view LogLevelName(LogLevel level) { return kNames[static_cast<size_t>(level)]; }

void AppendJsonString(absl::string_view text, std::string* out) {
  out->push_back('"');
  while (!text.empty()) {
    const size_t size = Utf8CharacterBytes(text);
    const unsigned char first = static_cast<unsigned char>(text[0]);
    if (size == 0) {
      out->append("\xef\xbf\xbd");
    } else if (first == '"' || first == '\\') {
      out->push_back('\\');
      out->push_back(text[0]);
    } else if (first < 0x20 || first == 0x7f) {
      absl::StrAppendFormat(out, "\\u%04x", first);
    } else {
      out->append(text.data(), size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  out->push_back('"');
}

Log::Log(std::shared_ptr<spdlog::details::thread_pool> pool, std::shared_ptr<spdlog::logger> logger,
         std::shared_ptr<spdlog::logger> direct, LogLevel level)
    : pool_(std::move(pool)), logger_(std::move(logger)), direct_(std::move(direct)) {
  logger_->set_formatter(std::make_unique<spdlog::pattern_formatter>(
      kPattern, spdlog::pattern_time_type::utc, pool_ ? "\n" : ""));
  logger_->set_level(ToSpdlog(level));
  logger_->flush_on(spdlog::level::debug);
  if (direct_ != logger_) direct_->set_level(spdlog::level::trace);  // logger_'s level decides
}

std::shared_ptr<Log> Log::ToStderr(LogLevel level) {
  auto pool = std::make_shared<spdlog::details::thread_pool>(kQueuedLines, 1);
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::async_logger>(
      "nibble", sink, pool, spdlog::async_overflow_policy::overrun_oldest);
  auto direct = std::make_shared<spdlog::logger>("nibble", sink);
  return std::shared_ptr<Log>(
      new Log(std::move(pool), std::move(logger), std::move(direct), level));
}

std::shared_ptr<Log> Log::ToFunction(LogLevel level, std::function<void(const std::string&)> take) {
  auto logger =
      std::make_shared<spdlog::logger>("nibble", std::make_shared<FunctionSink>(std::move(take)));
  return std::shared_ptr<Log>(new Log(nullptr, logger, logger, level));
}

Log::~Log() = default;

void Log::Write(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields) {
  WriteWith(*logger_, level, event, fields);
}

void Log::WriteLast(LogLevel level, absl::string_view event,
                    std::initializer_list<LogField> fields) {
  WriteWith(*direct_, level, event, fields);
}

void Log::WriteWith(spdlog::logger& logger, LogLevel level, absl::string_view event,
                    std::initializer_list<LogField> fields) {
  if (level == LogLevel::kOff || !logger_->should_log(ToSpdlog(level))) return;
  std::string line = "\"event\":";
  AppendJsonString(event, &line);
  for (const LogField& field : fields) {
    line.push_back(',');
    AppendJsonString(field.key, &line);
    line.push_back(':');
    AppendValue(field, &line);
  }
  logger.log(ToSpdlog(level), spdlog::string_view_t(line.data(), line.size()));
}

void Log::set_level(LogLevel level) { logger_->set_level(ToSpdlog(level)); }

LogLevel Log::level() const {
  const spdlog::level::level_enum level = logger_->level();
  for (LogLevel candidate :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (ToSpdlog(candidate) == level) return candidate;
  }
  return LogLevel::kOff;
}

}  // namespace nibble
