// How `nibble quantize --method` goes on where an interrupted run of the same command stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/model/model_sink.h"
#include "engine/quantize/model/work_folder.h"

namespace nibble {

// The folder of finished layers beside --output, empty with --no-resume; says on `io.err` where the
// run goes on. Null for a method that looks at no text: it makes a layer as fast as it is read
// back. Errors of WorkFolder::Open.
absl::StatusOr<std::unique_ptr<quantize::WorkFolder>> OpenWork(
    const QuantizeFlags& flags, const quantize::ModelPlan& plan,
    const quantize::LayerwiseOptions& options, absl::Span<const std::vector<int32_t>> windows,
    const Io& io);

// The error, and how much of the work the next run will find done.
absl::Status WithWhatIsKept(const absl::Status& status, const quantize::WorkFolder& work,
                            int32_t num_layers);

}  // namespace nibble
