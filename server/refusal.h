// A refused call as an absl::Status: what the policy knows travels as payloads, and convert.cc
// turns them into google.rpc details. `reason` is also the label of requests_finished_total, so it
// is one of a few fixed words.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "engine/engine.h"

namespace nibble {

inline constexpr char kRetryPayload[] = "nibble.retry_after_ms";
inline constexpr char kQuotaPayload[] = "nibble.quota";  // "open_requests": what is used up

// How long a refused client should wait. A full queue moves within a second; a load of weights
// takes longer; a draining server never comes back, but the balancer needs a moment to notice.
inline constexpr Duration kRetryWhenFull = std::chrono::seconds(1);
inline constexpr Duration kRetryWhenLoading = std::chrono::seconds(5);
inline constexpr Duration kRetryWhenDraining = std::chrono::seconds(1);

// UNAVAILABLE with a reason and a time to come back after.
absl::Status UnavailableFor(absl::string_view reason, absl::string_view message,
                            Duration retry_after);
// RESOURCE_EXHAUSTED: `quota` is used up.
absl::Status QuotaFull(absl::string_view quota, absl::string_view message);
// `code` with only a reason.
absl::Status RefusedFor(absl::string_view reason, absl::StatusCode code, absl::string_view message);

// The start of `utf8`, at most `max_bytes` of it and never half a character: what a message may
// quote of a request.
absl::string_view Shortened(absl::string_view utf8, size_t max_bytes);

// "" when the payload is absent.
std::string PayloadOf(const absl::Status& status, absl::string_view url);

}  // namespace nibble
