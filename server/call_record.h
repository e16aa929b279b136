// The books of one GenerationService call: its id, its admission ticket, and the one place where
// its outcome is decided, counted and logged. Exactly one of Refuse and Finish is called, once; the
// counters therefore add up.
//
// Not locked: the calls of one request come one after another (service, then sink, then OnDone).
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/request.h"
#include "server/convert.h"
#include "server/parts.h"

namespace nibble {

class CallRecord {
 public:
  // Counts the call as started. `rpc` is a literal, `peer` the client's address.
  CallRecord(ServerParts& parts, absl::string_view rpc, std::string peer);
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  const std::string& request_id() const { return request_id_; }
  Instant arrival() const { return arrival_; }

  void set_ticket(Admission::Ticket ticket) { ticket_ = std::move(ticket); }
  Admission::Ticket& ticket() { return ticket_; }
  void set_deadline(std::optional<Instant> deadline) { deadline_ = deadline; }
  std::optional<Instant> deadline() const { return deadline_; }

  // The call never reached the engine.
  WireStatus Refuse(const absl::Status& why);
  // The engine is done with it. With `client_left`, what it produced was not delivered.
  WireStatus Finish(const Outcome& outcome, bool client_left);

 private:
  absl::Status Verdict(const Outcome& outcome, bool client_left) const;
  void Book(const absl::Status& status, absl::string_view reason, const WireStatus& wire,
            const Outcome* outcome);

  ServerParts& parts_;
  const absl::string_view rpc_;
  const std::string peer_;
  const std::string request_id_;
  const Instant arrival_;
  std::optional<Instant> deadline_;
  Admission::Ticket ticket_;
  bool booked_ = false;
};

}  // namespace nibble
