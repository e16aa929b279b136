#include "cli/measure_importance.h"

#include <algorithm>
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

// Long enough that early positions, whose activations differ, are few.
constexpr int32_t kWindow = 512;

Importance ImportanceOf(const ImportanceRecorder& recorder) {
  Importance importance;
  for (const auto& [name, squares] : recorder.squares()) {
    const std::vector<float> sums(squares.sums.begin(), squares.sums.end());
    importance.Set(name, sums, static_cast<float>(squares.rows));
  }
  return importance;
}

}  // namespace

absl::StatusOr<MeasuredImportance> MeasureImportance(const std::string& path,
                                                     const std::string& text, int32_t threads,
                                                     const Io& io) {
  TextFlags text_flags;
  text_flags.path = text;
  ModelFlags flags;
  flags.model = path;
  flags.cpu.num_threads = threads;
  flags.cpu.activations = CpuActivations::kF32;
  const absl::StatusOr<std::string> file = ReadText(text_flags);
  if (!file.ok()) {
    return absl::NotFoundError(
        absl::StrCat("--calibration \"", text, "\": found nothing to read, needed a text file"));
  }
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags, {}));
  text_flags.window = std::min(kWindow, model.config.context_length);
  auto recorder = std::make_unique<ImportanceRecorder>(std::move(model.backend), model.config);
  const ImportanceRecorder& recorded = *recorder;
  model.backend = std::move(recorder);
  NIBBLE_ASSIGN_OR_RETURN(const EvalText eval, TokenizeText(text_flags, *file, *model.tokenizer));
  NIBBLE_RETURN_IF_ERROR(
      LoadWeights(model, OneWindowRunner(flags, text_flags.window, model.config), {}));
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "calibrating", nullptr, &clock);
  NIBBLE_ASSIGN_OR_RETURN(const PerplexityResult result,
                          EvaluatePerplexity(*model.runner, eval.ids, eval.windows,
                                             [&progress](int64_t done, int64_t total) {
                                               progress.Update(done, total);
                                             }));
  MeasuredImportance measured;
  measured.importance = ImportanceOf(recorded);
  measured.windows = static_cast<int32_t>(result.windows);
  measured.window = text_flags.window;
  return measured;
}

}  // namespace nibble
