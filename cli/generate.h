// `nibble generate`: one prompt, streamed to stdout, from a model in this process or from a server.
#pragma once

#include "cli/generate_flags.h"
#include "cli/io.h"

namespace nibble {

int RunGenerate(const GenerateFlags& flags, const Io& io);

}  // namespace nibble
