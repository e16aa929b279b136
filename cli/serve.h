// `nibble serve`: listens, loads the model, serves until SIGTERM or SIGINT, drains, exits 0.
//
// The first signal drains (running calls end within --drain-timeout); before the model is loaded it
// ends the process at once with 0, as nothing was accepted. A second signal ends it at once with
// 128 + signal.
//
// Where stderr is no terminal, it holds log lines and nothing else once the flags were understood:
// no hints for people, and why it ended as the event "failed".
#pragma once

#include "cli/io.h"
#include "cli/serve_flags.h"

namespace nibble {

// `config`: what --print-config prints.
int RunServe(const ServeFlags& flags, const nlohmann::ordered_json& config, const Io& io);

}  // namespace nibble
