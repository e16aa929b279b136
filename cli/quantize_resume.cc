#include "cli/quantize_resume.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/method.h"

namespace nibble {

using quantize::WorkFolder;

absl::StatusOr<std::unique_ptr<WorkFolder>> OpenWork(const QuantizeFlags& flags,
                                                     const quantize::ModelPlan& plan,
                                                     const quantize::LayerwiseOptions& options,
                                                     absl::Span<const std::vector<int32_t>> windows,
                                                     const Io& io) {
  if (!quantize::NeedsCalibration(plan.method)) return nullptr;
  const int32_t layers = plan.config.num_layers;
  NIBBLE_ASSIGN_OR_RETURN(
      std::unique_ptr<WorkFolder> work,
      WorkFolder::Open({.output = flags.output,
                        .identity = quantize::IdentityOf(plan, options, windows),
                        .num_layers = layers,
                        .resume = !flags.no_resume,
                        .note = [&io](const std::string& text) { Warn(io, text); }}));
  if (work->num_finished() == 0) return work;
  int32_t next = 0;
  while (next < layers && work->Has(next)) ++next;
  const std::string where = next < layers ? absl::StrCat("layer ", next + 1, " of ", layers)
                                          : std::string("the embedding and the head");
  io.err << "nibble: resuming at " << where << ", " << work->num_finished() << " done in "
         << work->path() << std::endl;
  return work;
}

absl::Status WithWhatIsKept(const absl::Status& status, const WorkFolder& work,
                            int32_t num_layers) {
  if (work.num_finished() == 0) return status;
  return absl::Status(
      status.code(),
      absl::StrCat(status.message(), "; ", work.num_finished(), " of ", num_layers,
                   " layers are kept in ", work.path(), ", the same command goes on from there"));
}

}  // namespace nibble
