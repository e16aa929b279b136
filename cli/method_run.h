// What `nibble quantize --method` does whatever the output is: the text that the method looks at,
// and the work itself, with its progress and Ctrl-C.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "cli/calibration_text.h"
#include "cli/interrupt.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"
#include "engine/model/model_config.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/model/model_sink.h"
#include "engine/quantize/model/quantize_model.h"
#include "engine/quantize_source.h"

namespace nibble {

// Empty for a method that looks at no text. The tokenizer is gone when this returns: only ids are
// kept.
absl::StatusOr<CalibrationText> CalibrationFor(const QuantizeFlags& flags,
                                               const quantize::Method& method,
                                               const QuantizeSource& source,
                                               const ModelConfig& config);

// INVALID_ARGUMENT for flags of texts that do not go with the method, and as CheckAllUsed.
absl::Status CheckTexts(const QuantizeFlags& flags, const quantize::Method& method);

// The method's flags as they would be typed; no paths, which tell nothing elsewhere.
std::string MethodOptionsText(const QuantizeFlags& flags, const quantize::Method& method);

// CANCELLED after Ctrl-C; otherwise as QuantizeModel and OpenWork (quantize_resume.h). What a run
// that does not end has finished stays for the next one.
absl::StatusOr<quantize::ModelReport> RunMethod(const QuantizeFlags& flags,
                                                const QuantizeSource& source,
                                                const quantize::ModelPlan& plan,
                                                const CalibrationText& text, int32_t threads,
                                                Interrupt& interrupt, const Io& io,
                                                quantize::ModelSink& sink);

}  // namespace nibble
