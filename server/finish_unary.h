// The end of a unary call that is answered on the spot. For the services' own files: it drags in
// gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "engine/base/log.h"
#include "server/convert.h"
#include "server/parts.h"

namespace nibble {

inline grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                             ServerParts& parts, const absl::Status& status) {
  const std::string request_id = parts.request_ids.Next();
  const WireStatus wire = ToWire(status, request_id);
  for (const auto& [key, value] : wire.trailers) context->AddTrailingMetadata(key, value);
  if (wire.status.error_code() == grpc::StatusCode::INTERNAL) {
    parts.log.Error("request_failed", {{"request_id", request_id}, {"error", status.ToString()}});
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(wire.status);
  return reactor;
}

}  // namespace nibble
