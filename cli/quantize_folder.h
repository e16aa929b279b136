// `nibble quantize --layout`: a folder in the layouts of Hugging Face's ecosystem
// (engine/quantize/folder), of codes that a method chose, or of the weights as they are.
#pragma once

#include "absl/status/status.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"

namespace nibble {

// INVALID_ARGUMENT: a layout that is not known or does not hold what the method makes, and flags
// that are for GGUF files. Reads nothing.
absl::Status CheckFolderFlags(const QuantizeFlags& flags);

// The exit code. REQUIRES CheckFolderFlags.
int RunQuantizeToFolder(const QuantizeFlags& flags, const Io& io);

}  // namespace nibble
