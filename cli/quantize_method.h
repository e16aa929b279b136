// `nibble quantize --method`: codes chosen by a method (engine/quantize/methods), stored as blocks
// of the ggml type that holds them.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/interrupt.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"
#include "cli/quantize_report.h"

namespace nibble {

// INVALID_ARGUMENT: a method that is not known, that no GGUF file can keep, or that does not go
// with the other flags. Reads nothing.
absl::Status CheckMethodFlags(const QuantizeFlags& flags);

// REQUIRES CheckMethodFlags. CANCELLED after Ctrl-C: nothing was written.
absl::StatusOr<QuantizeSummary> QuantizeByMethod(const QuantizeFlags& flags, Interrupt& interrupt,
                                                 const Io& io);

}  // namespace nibble
