#include "engine/model/device_runner.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/decoder_model.h"
#include "engine/model/drawn_tokens.h"
#include "engine/model/kv_cache.h"
#include "engine/model/sample_plan.h"
#include "engine/model/step_input.h"
#include "engine/model/workspace.h"

namespace nibble {
namespace {

// Rows that go through the head together: at 128k words of vocabulary 32 MiB of logits, and enough
// rows to make the head compute-bound.
constexpr int32_t kMaxLogitsRows = 64;

absl::Status CheckOptions(const RunnerOptions& options, const ModelConfig& config) {
  const auto refuse = [](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (options.max_context < 0 || options.max_context > config.context_length) {
    return refuse("max_context is ", options.max_context, ", the model was trained for ",
                  config.context_length, " tokens; 0 takes all of them");
  }
  const int32_t block = options.block_size;
  if (block < 8 || block > 256 || (block & (block - 1)) != 0) {
    return refuse("block_size is ", block, ", it must be a power of two in 8..256");
  }
  const DType type = options.kv_cache_type;
  if (type != DType::kF16 && type != DType::kBf16 && type != DType::kI8 && type != DType::kF8E4M3) {
    return refuse("kv_cache_type is ", static_cast<int>(type),
                  ", it must be f16, bf16, int8 or fp8 (e4m3)");
  }
  if (options.max_batch_tokens < 1) {
    return refuse("max_batch_tokens is ", options.max_batch_tokens, ", it must be at least 1");
  }
  if (options.max_sequences < 1) {
    return refuse("max_sequences is ", options.max_sequences, ", it must be at least 1");
  }
  return absl::OkStatus();
}

int64_t DrawnBytes(const RunnerLimits& limits) {
  return (int64_t{limits.max_batch_tokens} + limits.max_sequences) * int64_t{sizeof(int32_t)};
}

// What a matrix of the checkpoint is going to be packed from.
PlannedMatrix PlannedOf(const TensorReport& tensor) {
  const CanonicalForm& form = *tensor.form;
  PlannedMatrix matrix;
  matrix.format = form.format;
  matrix.rows = static_cast<int32_t>(tensor.shape[0]);
  matrix.cols = static_cast<int32_t>(tensor.shape[1]);
  matrix.group = form.group;
  matrix.offsets = form.offsets;
  matrix.zero_point = form.zero_point;
  matrix.f32_scales = form.scale_bytes != 2;
  matrix.half_values = tensor.file_bytes == int64_t{matrix.rows} * matrix.cols * 2;
  return matrix;
}

// Before anything is allocated: whether the device has the kernels and the memory.
absl::Status CheckDevice(Backend& backend, const ModelConfig& config, const WeightSource& weights,
                         const RunnerOptions& options, const RunnerLimits& limits) {
  KvLayer cache;
  cache.dtype = options.kv_cache_type;
  cache.block_size = options.block_size;
  cache.num_kv_heads = config.num_kv_heads;
  cache.head_dim = config.head_dim;
  NIBBLE_RETURN_IF_ERROR(backend.CheckAttention(cache, config.num_heads, limits.max_context));
  MemoryPlan plan;
  std::vector<PlannedMatrix> matrices;
  for (const TensorReport& tensor : weights.Report()) {
    if (tensor.form.has_value() && tensor.shape.size() == 2) {
      matrices.push_back(PlannedOf(tensor));
    } else {
      plan.weights += tensor.canonical_bytes;
    }
  }
  plan.matrices = matrices;
  plan.weights += int64_t{limits.max_context} * config.rotary_dim * int64_t{sizeof(float)};
  plan.kv_cache = options.kv_cache_bytes;
  plan.activations =
      Workspace::PlannedBytes(config, backend.activation_dtype(), options.max_batch_tokens,
                              std::min(kMaxLogitsRows, options.max_batch_tokens)) +
      StepInput::PlannedBytes(limits) + DrawnBytes(limits);
  return backend.CheckPlan(plan);
}

class DecoderRunner : public DeviceRunner {
 public:
  DecoderRunner(Backend& backend, DecoderModel model, KvCache cache, StepInput input,
                Workspace space, DeviceBuffer drawn, const RunnerLimits& limits)
      : backend_(backend),
        model_(std::move(model)),
        cache_(std::move(cache)),
        input_(std::move(input)),
        space_(std::move(space)),
        drawn_(std::move(drawn)),
        limits_(limits),
        plan_(limits) {}

  RunnerLimits limits() const override { return limits_; }

  RunnerBytes bytes() const override {
    RunnerBytes bytes;
    bytes.weights = model_.size_bytes();
    bytes.layers = model_.layer_bytes();
    bytes.head = model_.head_bytes();
    bytes.kv_cache = cache_.size_bytes();
    bytes.workspace = space_.size_bytes() + input_.size_bytes();
    return bytes;
  }

  const MatrixReport& matrices() const override { return model_.matrices(); }

  int64_t layers_run() const override { return layers_run_.load(std::memory_order_relaxed); }

  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    StepResult result;
    result.rows.resize(batch.rows.size());
    if (batch.rows.empty()) return result;
    plan_.Fill(batch, kMaxLogitsRows);
    input_.Fill(batch, known_, plan_.token_rows());
    backend_.RunStep(Key(plan_.size()), [this] {
      Forward();
      DrawTokens();
    });
    NIBBLE_RETURN_IF_ERROR(backend_.Synchronize());
    known_.Note(batch, plan_);
    plan_.Deliver(&result);
    return result;
  }

  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    if (batch.rows.empty()) return absl::OkStatus();
    const std::vector<VisitedRow> visited = VisitedRows(batch);
    std::vector<int32_t> token_rows;
    for (const VisitedRow& row : visited) token_rows.push_back(row.token_row);
    input_.Fill(batch, known_, token_rows);
    backend_.RunStep(Key(0), [this] { Forward(); });
    const int32_t size = static_cast<int32_t>(visited.size());
    std::vector<float> host(int64_t{std::min(kMaxLogitsRows, size)} * limits_.vocab_size);
    for (int32_t first = 0; first < size; first += kMaxLogitsRows) {
      const int32_t n = std::min(kMaxLogitsRows, size - first);
      const Tensor logits = Logits(first, n);
      NIBBLE_RETURN_IF_ERROR(backend_.Synchronize());
      backend_.CopyToHost(host.data(), logits.data,
                          int64_t{n} * limits_.vocab_size * int64_t{sizeof(float)});
      for (int32_t i = 0; i < n; ++i) {
        const VisitedRow& row = visited[first + i];
        visit(
            row.sequence, row.position,
            absl::MakeConstSpan(host).subspan(int64_t{i} * limits_.vocab_size, limits_.vocab_size));
      }
    }
    return backend_.Synchronize();
  }

 private:
  struct VisitedRow {
    int32_t sequence, position, token_row;
  };
  static std::vector<VisitedRow> VisitedRows(const Batch& batch) {
    std::vector<VisitedRow> visited;
    int32_t first_token = 0;
    for (size_t s = 0; s < batch.rows.size(); ++s) {
      const BatchRow& row = batch.rows[s];
      const int32_t end = row.num_computed + row.num_scheduled;
      for (int32_t p = std::max(row.num_computed, row.prompt_scored); p < end; ++p) {
        visited.push_back({static_cast<int32_t>(s), p, first_token + p - row.num_computed});
      }
      first_token += row.num_scheduled;
    }
    return visited;
  }

  StepKey Key(int32_t num_logits_rows) const {
    StepKey key;
    key.num_tokens = input_.num_tokens();
    key.num_sequences = input_.num_sequences();
    key.num_logits_rows = num_logits_rows;
    return key;
  }

  // --- what a step is made of; may be recorded once and replayed (Backend::RunStep)

  void Forward() {
    input_.Upload();
    model_.Forward(backend_, input_, drawn(), cache_, space_, layers_run_);
  }

  void DrawTokens() {
    for (int32_t first = 0; first < plan_.size(); first += kMaxLogitsRows) {
      const int32_t n = std::min(kMaxLogitsRows, plan_.size() - first);
      SampleParams sample;
      sample.rows = plan_.rows().subspan(first, n);
      sample.out = &plan_.outputs()[first];
      sample.drawn = drawn() + first;
      sample.logits = Logits(first, n);
      backend_.Sample(sample);
    }
  }

  // Of the input's logits rows first .. first + n - 1; n <= kMaxLogitsRows.
  Tensor Logits(int32_t first, int32_t n) {
    return model_.Logits(backend_, input_, input_.logits_rows() + first, n, space_);
  }

  int32_t* drawn() const { return static_cast<int32_t*>(drawn_.data()); }

  Backend& backend_;
  DecoderModel model_;
  KvCache cache_;
  StepInput input_;
  Workspace space_;
  DeviceBuffer drawn_;  // [rows of the plan] the ids that the last step drew
  RunnerLimits limits_;
  SamplePlan plan_;
  DrawnTokens known_;
  std::atomic<int64_t> layers_run_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceRunner>> DeviceRunner::Create(
    Backend& backend, const ModelConfig& config, const WeightSource& weights,
    const RunnerOptions& options, std::function<void(int64_t, int64_t)> progress) {
  NIBBLE_RETURN_IF_ERROR(CheckOptions(options, config));
  KvCacheOptions cache_options;
  cache_options.size_bytes = options.kv_cache_bytes;
  cache_options.block_size = options.block_size;
  cache_options.type = options.kv_cache_type;
  cache_options.max_context = options.max_context > 0 ? options.max_context : config.context_length;
  // The cheap refusals first: reading the weights may take a minute.
  NIBBLE_RETURN_IF_ERROR(CheckConfig(config, cache_options.max_context));
  RunnerLimits limits;
  limits.vocab_size = config.vocab_size;
  limits.max_context = cache_options.max_context;
  limits.block_size = options.block_size;
  limits.max_batch_tokens = options.max_batch_tokens;
  limits.max_sequences = options.max_sequences;
  NIBBLE_RETURN_IF_ERROR(CheckDevice(backend, config, weights, options, limits));
  NIBBLE_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(backend, config, cache_options));
  limits.num_blocks = cache.num_blocks();
  NIBBLE_ASSIGN_OR_RETURN(StepInput input, StepInput::Create(backend, limits));
  NIBBLE_ASSIGN_OR_RETURN(Workspace space,
                          Workspace::Create(backend, config, limits.max_batch_tokens,
                                            std::min(kMaxLogitsRows, limits.max_batch_tokens)));
  NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer drawn,
                          backend.Allocate(DrawnBytes(limits), "the drawn tokens"));
  const LoadOptions load{.progress = std::move(progress), .packed_cache = options.packed_cache};
  NIBBLE_ASSIGN_OR_RETURN(DecoderModel model,
                          DecoderModel::Load(backend, config, weights, limits.max_context, load));
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());  // a fault of the load is no step's
  return std::make_unique<DecoderRunner>(backend, std::move(model), std::move(cache),
                                         std::move(input), std::move(space), std::move(drawn),
                                         limits);
}

}  // namespace nibble
