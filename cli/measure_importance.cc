#include "cli/measure_importance.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/eval_text.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/eval/perplexity.h"
#include "engine/model/importance_recorder.h"

namespace nibble {
namespace {

absl::StatusOr<Importance> ImportanceOf(const ImportanceRecorder& recorder) {
  Importance importance;
  for (const auto& [name, squares] : recorder.squares()) {
    const std::vector<float> sums(squares.sums.begin(), squares.sums.end());
    const absl::Status set = importance.Set(name, sums, static_cast<float>(squares.rows));
    if (set.ok()) continue;
    return absl::Status(set.code(), absl::StrCat("--calibration: ", set.message(),
                                                 "; is a weight of the model damaged?"));
  }
  return importance;
}

}  // namespace

absl::StatusOr<MeasuredImportance> MeasureImportance(const std::string& path,
                                                     const CalibrationOptions& text,
                                                     int32_t threads, const Io& io) {
  ModelFlags flags;
  flags.model = path;
  flags.cpu.num_threads = threads;
  flags.cpu.activations = CpuActivations::kF32;
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags, {}));
  NIBBLE_ASSIGN_OR_RETURN(const CalibrationText read,
                          ReadCalibration(text, model.config, *model.tokenizer));
  WindowOptions windows;
  windows.window = read.length;
  auto recorder = std::make_unique<ImportanceRecorder>(std::move(model.backend), model.config);
  const ImportanceRecorder& recorded = *recorder;
  model.backend = std::move(recorder);
  NIBBLE_RETURN_IF_ERROR(LoadWeights(model, OneWindowRunner(flags, read.length, model.config), {}));
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "calibrating", nullptr, &clock);
  NIBBLE_ASSIGN_OR_RETURN(const PerplexityResult result,
                          EvaluatePerplexity(*model.runner, read.Joined(), windows,
                                             [&progress](int64_t done, int64_t total) {
                                               progress.Update(done, total);
                                             }));
  MeasuredImportance measured;
  NIBBLE_ASSIGN_OR_RETURN(measured.importance, ImportanceOf(recorded));
  measured.windows = static_cast<int32_t>(result.windows);
  measured.length = read.length;
  measured.text_sha256 = read.sha256;
  return measured;
}

}  // namespace nibble
