// What every service works with. Owned by the Server, which outlives all calls.
#pragma once

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/admission.h"
#include "server/metrics.h"
#include "server/request_ids.h"
#include "server/server.h"
#include "server/serving_state.h"

namespace nibble {

class OpenCalls;
class StreamWriter;

struct ServerParts {
  const ServerOptions& options;
  const Clock& clock;
  Log& log;
  Metrics& metrics;
  Admission& admission;
  ServingState& state;
  RequestIds& request_ids;
  OpenCalls& open_calls;
  Admission& tokenizer_admission;  // its own counts: tokenizing takes no place from generation
  StreamWriter& stream_writer;
};

}  // namespace nibble
