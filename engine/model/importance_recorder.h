// A backend that notes how large the inputs of each linear of a decoder are, and does everything
// else as the one it wraps: for importance matrices (engine/quantize/importance.h).
//
// For every weight by its GGUF name, and every input column, the sum of squares over all rows of
// all steps so far: of the normalized rows, where the linear normalizes. It knows the linears by
// their order in a step (DecoderModel::Forward: q k v, o, gate up, down of each layer, then the
// head). For backends whose memory is the host's; costs two passes over each linear's input.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "kernels/backend.h"

namespace nibble {

struct ColumnSquares {
  std::vector<double> sums;  // [columns]
  int64_t rows = 0;
};

class ImportanceRecorder final : public Backend {
 public:
  ImportanceRecorder(std::unique_ptr<Backend> inner, const ModelConfig& config);

  // By GGUF tensor name; a head that is the embedding is "token_embd.weight".
  const std::map<std::string, ColumnSquares>& squares() const { return squares_; }

  DeviceInfo Info() const override { return inner_->Info(); }
  DType activation_dtype() const override { return inner_->activation_dtype(); }
  absl::Status CheckPlan(const MemoryPlan& plan) override { return inner_->CheckPlan(plan); }
  absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads,
                              int32_t max_context) override {
    return inner_->CheckAttention(cache, num_heads, max_context);
  }
  absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) override {
    return inner_->Allocate(size_bytes, what);
  }
  void CopyToDevice(void* device, const void* host, int64_t size_bytes) override {
    inner_->CopyToDevice(device, host, size_bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t size_bytes) override {
    inner_->CopyToHost(host, device, size_bytes);
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) override {
    return inner_->Pack(matrix);
  }
  std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) override {
    return inner_->StartPacking(rows);
  }
  PackedLayout packed_layout() const override { return inner_->packed_layout(); }
  PackedBytes ToBytes(const PackedMatrix& matrix) override { return inner_->ToBytes(matrix); }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> FromBytes(
      const PackedBytes& bytes, const std::shared_ptr<const void>& owner) override {
    return inner_->FromBytes(bytes, owner);
  }
  void RunParts(int num_parts, absl::FunctionRef<void(int part)> fn) override {
    inner_->RunParts(num_parts, fn);
  }
  // Not as a step of the inner one, whose ops may run when all have been called: what they read is
  // looked at here before.
  void RunStep(StepKey, absl::FunctionRef<void()> step) override { step(); }
  void CountLayer(std::atomic<int64_t>& counter) override { inner_->CountLayer(counter); }
  absl::Status Synchronize() override { return inner_->Synchronize(); }

  void Embed(const EmbedParams& params) override;
  void Linear(const LinearParams& params) override;
  void RmsNorm(const RmsNormParams& params) override { inner_->RmsNorm(params); }
  void RopeStoreKv(const RopeStoreKvParams& params) override { inner_->RopeStoreKv(params); }
  void Attention(const AttentionParams& params) override { inner_->Attention(params); }
  void GatedActivation(const GatedActivationParams& params) override {
    inner_->GatedActivation(params);
  }
  void GatherRows(const GatherRowsParams& params) override { inner_->GatherRows(params); }
  void Sample(const SampleParams& params) override { inner_->Sample(params); }

 private:
  std::vector<std::string> WeightNames() const;  // of the linear that comes next

  const std::unique_ptr<Backend> inner_;
  const int32_t num_layers_;
  const bool tied_head_;
  int32_t next_linear_ = 0;  // of this step
  std::map<std::string, ColumnSquares> squares_;
};

}  // namespace nibble
