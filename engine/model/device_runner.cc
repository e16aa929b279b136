#include "engine/model/device_runner.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/decoder_model.h"
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

// Before anything is allocated: whether the device has the kernels and the memory.
absl::Status CheckDevice(Backend& backend, const ModelConfig& config, const WeightSource& weights,
                         const RunnerOptions& options, int32_t max_context) {
  KvLayer cache;
  cache.dtype = options.kv_cache_type;
  cache.block_size = options.block_size;
  cache.num_kv_heads = config.num_kv_heads;
  cache.head_dim = config.head_dim;
  NIBBLE_RETURN_IF_ERROR(backend.CheckAttention(cache, config.num_heads, max_context));
  MemoryPlan plan;
  for (const TensorReport& tensor : weights.Report()) plan.weights += tensor.canonical_bytes;
  plan.kv_cache = options.kv_cache_bytes;
  plan.activations =
      Workspace::PlannedBytes(config, backend.activation_dtype(), options.max_batch_tokens,
                              std::min(kMaxLogitsRows, options.max_batch_tokens));
  return backend.CheckPlan(plan);
}

class DecoderRunner : public DeviceRunner {
 public:
  DecoderRunner(Backend& backend, DecoderModel model, KvCache cache, StepInput input,
                Workspace space, DeviceBuffer logits_rows, const RunnerLimits& limits)
      : backend_(backend),
        model_(std::move(model)),
        cache_(std::move(cache)),
        input_(std::move(input)),
        space_(std::move(space)),
        logits_rows_(std::move(logits_rows)),
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

  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    StepResult result;
    result.rows.resize(batch.rows.size());
    if (batch.rows.empty()) return result;
    Forward(batch);
    plan_.Fill(batch);
    for (int32_t first = 0; first < plan_.size(); first += kMaxLogitsRows) {
      const int32_t n = std::min(kMaxLogitsRows, plan_.size() - first);
      SampleParams sample;
      sample.rows = plan_.Chunk(first, n);
      sample.out = plan_.Output(first);
      sample.logits = Logits(plan_.TokenRows(first), n);
      backend_.Sample(sample);
      NIBBLE_RETURN_IF_ERROR(backend_.Synchronize());  // the next chunk reuses logits and rows
    }
    NIBBLE_RETURN_IF_ERROR(backend_.Synchronize());
    plan_.Deliver(&result);
    return result;
  }

  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    if (batch.rows.empty()) return absl::OkStatus();
    Forward(batch);
    const std::vector<VisitedRow> visited = VisitedRows(batch);
    std::vector<int32_t> token_rows;
    for (const VisitedRow& row : visited) token_rows.push_back(row.token_row);
    const int32_t size = static_cast<int32_t>(visited.size());
    std::vector<float> host(int64_t{std::min(kMaxLogitsRows, size)} * limits_.vocab_size);
    for (int32_t first = 0; first < size; first += kMaxLogitsRows) {
      const int32_t n = std::min(kMaxLogitsRows, size - first);
      const Tensor logits = Logits(&token_rows[first], n);
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

  void Forward(const Batch& batch) {
    input_.Fill(batch);
    StepKey key;
    key.num_tokens = input_.num_tokens();
    key.num_sequences = input_.num_sequences();
    backend_.RunStep(key, [this] { model_.Forward(backend_, input_, cache_, space_); });
  }

  // Of the step's token rows token_rows[0 .. n - 1] (host); n <= kMaxLogitsRows.
  Tensor Logits(const int32_t* token_rows, int32_t n) {
    auto* const rows = static_cast<int32_t*>(logits_rows_.data());
    backend_.CopyToDevice(rows, token_rows, n * int64_t{sizeof(int32_t)});
    return model_.Logits(backend_, input_, rows, n, space_);
  }

  Backend& backend_;
  DecoderModel model_;
  KvCache cache_;
  StepInput input_;
  Workspace space_;
  DeviceBuffer logits_rows_;  // [kMaxLogitsRows] token rows of the chunk
  RunnerLimits limits_;
  SamplePlan plan_;
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
  NIBBLE_RETURN_IF_ERROR(CheckDevice(backend, config, weights, options, cache_options.max_context));
  NIBBLE_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(backend, config, cache_options));

  RunnerLimits limits;
  limits.vocab_size = config.vocab_size;
  limits.max_context = cache_options.max_context;
  limits.block_size = cache.block_size();
  limits.num_blocks = cache.num_blocks();
  limits.max_batch_tokens = options.max_batch_tokens;
  limits.max_sequences = options.max_sequences;
  NIBBLE_ASSIGN_OR_RETURN(StepInput input, StepInput::Create(backend, limits));
  NIBBLE_ASSIGN_OR_RETURN(Workspace space,
                          Workspace::Create(backend, config, limits.max_batch_tokens,
                                            std::min(kMaxLogitsRows, limits.max_batch_tokens)));
  NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer logits_rows,
                          backend.Allocate(kMaxLogitsRows * int64_t{sizeof(int32_t)}, "row ids"));
  const LoadOptions load{.progress = std::move(progress), .packed_cache = options.packed_cache};
  NIBBLE_ASSIGN_OR_RETURN(DecoderModel model,
                          DecoderModel::Load(backend, config, weights, limits.max_context, load));
  return std::make_unique<DecoderRunner>(backend, std::move(model), std::move(cache),
                                         std::move(input), std::move(space), std::move(logits_rows),
                                         limits);
}

}  // namespace nibble
