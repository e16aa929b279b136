// `nibble quantize --type`: to ggml's types by ggml's own rules (engine/quantize/gguf_quantizer.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/interrupt.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"
#include "cli/quantize_report.h"

namespace nibble {

// INVALID_ARGUMENT names a flag that is wrong, or that has no sense here. Reads nothing.
absl::Status CheckTypeFlags(const QuantizeFlags& flags);

// REQUIRES CheckTypeFlags. CANCELLED after Ctrl-C: nothing was written.
absl::StatusOr<QuantizeSummary> QuantizeToTypes(const QuantizeFlags& flags, Interrupt& interrupt,
                                                const Io& io);

}  // namespace nibble
