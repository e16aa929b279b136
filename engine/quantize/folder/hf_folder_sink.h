// A quantized model as a folder in Hugging Face's layout: config.json with quantization_config,
// safetensors, and the files that come with them.
//
//   the layers' linears   as the layout packs them (matrix_packing.h)
//   other matrices        F16 or BF16 as the source has them; F32 and what is quantized in the
//                         source becomes F16, or what HfFolderOptions says, to nearest
//   vectors               F32
//   nibble_quantize.json  how the folder came to be: the keys of engine/quantize/provenance.h
//
// Rows of q and k are in Hugging Face's order (HalfRowOf), whatever order they come in. A matrix is
// in memory while it is packed, nothing else but the tensors' table. The folder is complete or not
// there (partial_folder.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/model/model_sink.h"
#include "engine/weights/hf/partial_folder.h"
#include "engine/weights/hf/tensor_set_writer.h"

namespace nibble::quantize {

struct HfFolderOptions {
  std::string output;
  HfLayout layout = HfLayout::kPlain;
  // The model's config.json; its quantization_config and dtype are replaced.
  std::string config_json;
  std::vector<std::pair<std::string, std::string>> files;  // name and text: tokenizer.json ...
  int64_t max_shard_bytes = kDefaultShardBytes;
  // Of matrices that are not quantized: F32, F16 or BF16; absent: as above.
  std::optional<SafetensorsType> element_type;
};

class HfFolderSink final : public ModelSink {
 public:
  explicit HfFolderSink(HfFolderOptions options);

  // As InLayout; besides, a method whose int8 scheme has other scales than the layout is one that
  // InLayout has not been asked for.
  absl::Status Accepts(const Method& method) const override;
  bool WantsCodes(const std::string& name) const override;
  // Also errors of PartialFolder and TensorSetWriter, and INVALID_ARGUMENT for a tensor whose shape
  // the layout does not pack, heads that a block's scale would tear apart, or a config.json that is
  // no object.
  absl::Status Begin(const ModelPlan& plan) override;
  absl::Status Codes(const std::string& name, const QuantizedWeight& weight) override;
  // INVALID_ARGUMENT names a value beyond F16.
  absl::StatusOr<double> Rows(const std::string& name, int64_t first_row,
                              const MatrixF& values) override;
  bool Keeps(const std::string&) const override { return false; }  // safetensors has other types
  absl::Status Raw(const std::string& name, int64_t offset,
                   absl::Span<const uint8_t> bytes) override;
  absl::Status Finish(const std::vector<TensorError>& errors) override;

  int64_t size_bytes() const;  // of the safetensors files. REQUIRES Begin

 private:
  // Where a tensor of the plan goes.
  struct Entry {
    std::string module;               // "model.layers.0.self_attn.q_proj"
    size_t first = 0;                 // of its tensors in the folder
    std::vector<PackedTensor> parts;  // of a packed matrix; one of any other
    bool packed = false;
    int32_t rows = 1, cols = 0;
    int32_t head_dim = 0;  // rows are to be turned in heads of so many; 0: not
  };

  absl::StatusOr<Entry> Place(const ModelTensor& tensor) const;
  absl::Status CheckTurnable(const Entry& entry) const;
  absl::Status WriteRows(const Entry& entry, size_t part, int64_t first_row, int64_t count,
                         absl::Span<const uint8_t> bytes);
  absl::StatusOr<double> PackRows(const Entry& entry, int64_t first_row, const MatrixF& values);
  absl::StatusOr<double> PlainRows(const Entry& entry, int64_t first_row, const MatrixF& values);
  std::string ConfigText() const;

  const HfFolderOptions options_;
  const ModelPlan* plan_ = nullptr;
  std::unique_ptr<MatrixPacking> packing_;
  std::map<std::string, Entry> entries_;  // by GGUF's names
  std::vector<std::string> plain_;        // linear modules that are not packed
  bool has_bf16_ = false;
  std::unique_ptr<PartialFolder> folder_;
  std::optional<TensorSetWriter> writer_;  // destroyed before the folder it is in
};

}  // namespace nibble::quantize
