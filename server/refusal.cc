#include "server/refusal.h"

#include <chrono>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace nibble {

absl::Status RefusedFor(absl::string_view reason, absl::StatusCode code,
                        absl::string_view message) {
  absl::Status status(code, message);
  status.SetPayload(kReasonPayload, absl::Cord(reason));
  return status;
}

absl::Status UnavailableFor(absl::string_view reason, absl::string_view message,
                            Duration retry_after) {
  absl::Status status = RefusedFor(reason, absl::StatusCode::kUnavailable, message);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(retry_after).count();
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(ms)));
  return status;
}

absl::Status QuotaFull(absl::string_view quota, absl::string_view message) {
  absl::Status status = RefusedFor("queue_full", absl::StatusCode::kResourceExhausted, message);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(kRetryWhenFull).count();
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(ms)));
  status.SetPayload(kQuotaPayload, absl::Cord(quota));
  return status;
}

absl::string_view Shortened(absl::string_view utf8, size_t max_bytes) {
  if (utf8.size() <= max_bytes) return utf8;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(utf8[end]) & 0xc0) == 0x80) --end;
  return utf8.substr(0, end);
}

std::string PayloadOf(const absl::Status& status, absl::string_view url) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace nibble
