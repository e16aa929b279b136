#include "cli/local_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/model/kv_cache.h"
#include "engine/weights/weight_source.h"

namespace nibble {
namespace {

// Reports how long a phase took when it ends.
class PhaseTimer {
 public:
  PhaseTimer(const LoadEvents& events, absl::string_view phase)
      : events_(events), phase_(phase), start_(clock_.Now()) {}
  ~PhaseTimer() {
    if (events_.phase) events_.phase(phase_, clock_.Now() - start_);
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  const LoadEvents& events_;
  absl::string_view phase_;
  SteadyClock clock_;
  Instant start_;
};

// Stands for a chat template that this program cannot render, and says why.
class RefusingTemplate final : public ChatTemplate {
 public:
  RefusingTemplate(std::string source, std::string why)
      : source_(std::move(source)), why_(std::move(why)) {}
  absl::StatusOr<RenderedChat> Apply(absl::Span<const ChatMessage>, bool,
                                     absl::Span<const std::string>) const override {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot be rendered: ", why_, "; send text or token_ids"));
  }
  absl::string_view source() const override { return source_; }

 private:
  const std::string source_;
  const std::string why_;
};

void LoadChatTemplate(LocalModel& model, const LoadEvents& events) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> loaded =
      model.file->LoadChatTemplate(*model.tokenizer);
  if (loaded.ok()) {
    model.chat_template = *std::move(loaded);
    return;
  }
  absl::string_view why = loaded.status().message();
  absl::ConsumePrefix(&why, absl::StrCat(model.file->name(), ": "));  // a server's own affair
  if (events.note) events.note(absl::StrCat("chats are refused: ", why));
  const absl::StatusOr<std::optional<std::string>> text = model.file->ChatTemplateText();
  model.chat_template =
      std::make_unique<RefusingTemplate>(text.ok() ? text->value_or("") : "", std::string(why));
}

absl::StatusOr<std::unique_ptr<ModelFile>> OpenFile(const std::string& path) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(path));
  return OfModel(ModelFile::Open(path));
}

}  // namespace

absl::Status OfModel(absl::Status status) {
  if (!absl::IsInvalidArgument(status)) return status;
  return absl::FailedPreconditionError(status.message());
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const ModelFlags& flags) {
  NIBBLE_ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(flags.device));
  const bool is_cuda = device.kind == DeviceChoice::Kind::kCuda ||
                       (device.kind == DeviceChoice::Kind::kAuto && CheckCuda(0).ok());
  if (!is_cuda) return CreateCpuBackend(flags.cpu);
  CudaOptions cuda;
  cuda.ordinal = device.ordinal;
  cuda.quantize_activations = flags.cuda_w8a8;
  cuda.dependent_launches = flags.cuda_dependent_launches;
  cuda.wide_rows = flags.cuda_wide_rows;
  if (flags.runner.kv_cache_type == DType::kBf16) cuda.activations = DType::kBf16;
  return CreateCudaBackend(cuda);
}

std::string ActivationsName(const Backend& backend, const CpuOptions& cpu) {
  if (backend.activation_dtype() == DType::kF32) return CpuActivationsName(cpu.activations);
  return backend.activation_dtype() == DType::kBf16 ? "bf16" : "f16";
}

int64_t KvBytesPerToken(const ModelConfig& config, DType kv_cache_type) {
  return KvCache::BlockBytes(config, 1, kv_cache_type);
}

int32_t FittingContext(const ModelConfig& config, const RunnerOptions& options) {
  const int64_t block_bytes = KvBytesPerToken(config, options.kv_cache_type) * options.block_size;
  const int64_t cache_tokens = options.kv_cache_bytes / block_bytes * options.block_size;
  if (cache_tokens >= config.context_length) return config.context_length;
  return std::max<int64_t>(cache_tokens, 1);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<ModelFile> file, OpenFile(path));
  return file->LoadTokenizer();
}

absl::StatusOr<LocalModel> OpenLocalModel(const ModelFlags& flags, const LoadEvents& events) {
  LocalModel model;
  {
    PhaseTimer timer(events, "open");
    NIBBLE_ASSIGN_OR_RETURN(model.file, OpenFile(flags.model));
    NIBBLE_ASSIGN_OR_RETURN(model.config, OfModel(model.file->Config()));
    model.packed_cache = flags.packed_cache;
    model.share_weights = flags.share_weights;
    NIBBLE_ASSIGN_OR_RETURN(model.backend, CreateBackend(flags));
  }
  PhaseTimer timer(events, "tokenizer");
  NIBBLE_ASSIGN_OR_RETURN(model.tokenizer, OfModel(model.file->LoadTokenizer()));
  return model;
}

absl::Status LoadWeights(LocalModel& model, const RunnerOptions& options,
                         const LoadEvents& events) {
  PhaseTimer timer(events, "weights");
  RunnerOptions fitting = options;
  if (fitting.max_context == 0) {
    fitting.max_context = FittingContext(model.config, options);
    if (fitting.max_context < model.config.context_length && events.note) {
      events.note(absl::StrCat("context is ", fitting.max_context, " tokens, the model's own is ",
                               model.config.context_length, ": the KV cache of ",
                               options.kv_cache_bytes >> 20,
                               " MiB holds no more; raise --kv-cache-mib"));
    }
  }
  // "auto" may have become a GPU, whose memory holds the weights.
  fitting.packed_cache.share = model.share_weights && model.backend->Info().name == "cpu";
  fitting.packed_cache.path =
      PackedCachePath(model.packed_cache, model.file->name(), model.backend->packed_layout().name);
  const std::unique_ptr<WeightSource> source = model.file->Source(model.config);
  NIBBLE_ASSIGN_OR_RETURN(model.runner, DeviceRunner::Create(*model.backend, model.config, *source,
                                                             fitting, events.progress));
  const MatrixReport& matrices = model.runner->matrices();
  if (events.weights) events.weights(matrices);
  if (events.note && !matrices.cache_unused.empty()) {
    events.note(absl::StrCat("packed again, the cache could not be used: ", matrices.cache_unused));
  }
  if (events.note && !matrices.written.ok()) {
    events.note(absl::StrCat("packed weights were not kept: ", matrices.written.message()));
  }
  return absl::OkStatus();
}

absl::Status LoadToGenerate(LocalModel& model, const RunnerOptions& options,
                            const LoadEvents& events) {
  if (options.max_context > model.config.context_length) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--max-context: found ", options.max_context, ", needed at most ",
        model.config.context_length, ", which the model was trained for; 0 takes all of them"));
  }
  LoadChatTemplate(model, events);
  return OfModel(LoadWeights(model, options, events));
}

absl::StatusOr<LocalModel> LoadLocalModel(const ModelFlags& flags, const LoadEvents& events) {
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags, events));
  NIBBLE_RETURN_IF_ERROR(LoadToGenerate(model, flags.Runner(), events));
  return model;
}

}  // namespace nibble
