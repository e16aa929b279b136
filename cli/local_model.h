// A model in this process: from a path to the parts an engine, a benchmark or an evaluation needs.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/model_flags.h"
#include "engine/base/clock.h"
#include "engine/model/device_runner.h"
#include "engine/model/model_config.h"
#include "engine/model_file.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/backend.h"

namespace nibble {

// Loading that takes no longer shows no progress: most of it does not (docs/benchmarks).
inline constexpr Duration kQuietLoading = std::chrono::seconds(2);

// Who wants to know how loading goes; any of them may be empty. Called on the loading thread.
struct LoadEvents {
  std::function<void(absl::string_view phase, Duration took)>
      phase;                                                  // "open", "weights", "tokenizer"
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of weights
  std::function<void(const MatrixReport&)> weights;           // how they came, once they are there
  std::function<void(const std::string&)> note;               // one line for people
};

// Order matters: what is declared later uses, and is destroyed before, what is declared earlier.
struct LocalModel {
  std::unique_ptr<ModelFile> file;
  ModelConfig config;
  std::string packed_cache;  // as ModelFlags has it
  bool share_weights = false;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the file has none, or LoadToGenerate has
                                                // not been called
  std::unique_ptr<Backend> backend;
  std::unique_ptr<DeviceRunner> runner;
};

// The device that `flags` name. Errors of ParseDevice and of the device; with "auto" those of the
// CPU.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const ModelFlags& flags);

// "int8", "f16": what a linear multiplies weights with on that device.
std::string ActivationsName(const Backend& backend, const CpuOptions& cpu);

// `status`, with FAILED_PRECONDITION in place of INVALID_ARGUMENT: of what a model is rather than
// what the command line says, for ExitWith.
absl::Status OfModel(absl::Status status);
template <typename T>
absl::StatusOr<T> OfModel(absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return OfModel(value.status());
}

// Opens and loads everything: OpenLocalModel, then LoadToGenerate with the flags' own cache.
absl::StatusOr<LocalModel> LoadLocalModel(const ModelFlags& flags, const LoadEvents& events);

// The same in steps. OpenLocalModel leaves `runner` and `chat_template` null; INVALID_ARGUMENT is
// about the flags only.
absl::StatusOr<LocalModel> OpenLocalModel(const ModelFlags& flags, const LoadEvents& events);
// Fills `runner`; for callers that size the cache by what they read.
absl::Status LoadWeights(LocalModel& model, const RunnerOptions& options, const LoadEvents& events);
// LoadWeights for who answers prompts, and the chat template: one that cannot be used is told to
// `note` and becomes one that refuses every chat with the reason, as text and token ids need none.
// INVALID_ARGUMENT names --max-context, and is about nothing else.
absl::Status LoadToGenerate(LocalModel& model, const RunnerOptions& options,
                            const LoadEvents& events);

// Only what tokenize needs; the weights are not touched.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& path);

// Bytes of k and v of one token in a cache of that type, scales included.
int64_t KvBytesPerToken(const ModelConfig& config, DType kv_cache_type);

// The context to use when the caller named none: the model's own, or the whole cache if that is
// smaller, rounded down to whole blocks.
int32_t FittingContext(const ModelConfig& config, const RunnerOptions& options);

}  // namespace nibble
