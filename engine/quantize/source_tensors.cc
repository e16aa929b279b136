#include "engine/quantize/source_tensors.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/ggml/encode.h"
#include "engine/weights/ggml_types.h"
#include "kernels/check.h"

namespace nibble {
namespace {

bool IsPlain(int32_t type) {
  return type == static_cast<int32_t>(GgmlType::kF32) ||
         type == static_cast<int32_t>(GgmlType::kF16) ||
         type == static_cast<int32_t>(GgmlType::kBF16);
}

class GgufTensors final : public SourceTensors {
 public:
  explicit GgufTensors(const GgufFile& file) : file_(file) {
    for (const GgufTensor& tensor : file.tensors()) {
      tensors_.push_back({.name = tensor.name,
                          .dims = tensor.dims,
                          .ggml_type = tensor.ggml_type,
                          .quantized = !IsPlain(tensor.ggml_type),
                          .num_elements = tensor.num_elements,
                          .size_bytes = tensor.size_bytes});
    }
  }
  const std::string& name() const override { return file_.name(); }
  absl::Span<const SourceTensor> tensors() const override { return tensors_; }

  HeadCounts counts() const override {
    const std::string architecture = file_.GetString("general.architecture").value_or("");
    const auto number = [&](absl::string_view key) {
      return file_.GetInt(absl::StrCat(architecture, ".", key)).value_or(0);
    };
    return {number("block_count"), number("attention.head_count"),
            number("attention.head_count_kv")};
  }

  absl::StatusOr<absl::Span<const uint8_t>> ReadRows(size_t index, int64_t first, int64_t count,
                                                     std::vector<uint8_t>& buffer) const override {
    const GgufTensor& tensor = file_.tensors()[index];
    const int64_t row_bytes = tensor.size_bytes / (tensor.num_elements / tensor.dims[0]);
    return file_.Read(tensor, first * row_bytes, count * row_bytes, buffer);
  }

 private:
  const GgufFile& file_;
  std::vector<SourceTensor> tensors_;
};

GgmlType StoredType(const TensorReport& report) {
  if (report.shape.size() == 1) return GgmlType::kF32;
  if (absl::EqualsIgnoreCase(report.file_type, "f16")) return GgmlType::kF16;
  return absl::EqualsIgnoreCase(report.file_type, "bf16") ? GgmlType::kBF16 : GgmlType::kF32;
}

class OtherTensors final : public SourceTensors {
 public:
  OtherTensors(const WeightSource& source, const ModelConfig& config, std::string name,
               absl::Span<const std::string> order, std::vector<float> rope_factors)
      : source_(source),
        counts_({config.num_layers, config.num_heads, config.num_kv_heads}),
        name_(std::move(name)),
        rope_factors_(std::move(rope_factors)) {
    std::map<std::string, TensorReport> reports;
    for (TensorReport& report : source.Report()) reports[report.name] = std::move(report);
    for (const std::string& tensor : order) Add(reports.at(tensor));
    if (rope_factors_.empty()) return;
    const auto n = static_cast<int64_t>(rope_factors_.size());
    tensors_.push_back(
        {.name = "rope_freqs.weight", .dims = {n}, .num_elements = n, .size_bytes = 4 * n});
  }

  const std::string& name() const override { return name_; }
  absl::Span<const SourceTensor> tensors() const override { return tensors_; }
  HeadCounts counts() const override { return counts_; }
  // Of the widest scales there are: fp8 blocks (engine/weights/hf/linear_layout.h).
  int64_t row_multiple() const override { return quant::kFp8Block; }

  absl::StatusOr<absl::Span<const uint8_t>> ReadRows(size_t index, int64_t first, int64_t count,
                                                     std::vector<uint8_t>& buffer) const override {
    const SourceTensor& tensor = tensors_[index];
    const int64_t cols = tensor.dims[0];
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, Values(tensor, first, count));
    const auto type = static_cast<GgmlType>(tensor.ggml_type);
    const GgmlTypeInfo info = TypeInfo(tensor.ggml_type);
    buffer.resize(static_cast<size_t>(count * cols * info.block_bytes));
    for (int64_t row = 0; row < count; ++row) {  // exact: the values are of this type
      EncodeRow(type, absl::MakeConstSpan(values).subspan(row * cols, cols), {},
                buffer.data() + row * cols * info.block_bytes);
    }
    return absl::MakeConstSpan(buffer);
  }

 private:
  void Add(const TensorReport& report) {
    SourceTensor tensor;
    tensor.name = report.name;
    tensor.dims.assign(report.shape.rbegin(), report.shape.rend());
    tensor.ggml_type = static_cast<int32_t>(StoredType(report));
    tensor.quantized = report.shape.size() > 1 &&
                       !absl::EqualsIgnoreCase(report.file_type, "f32") &&
                       tensor.ggml_type == static_cast<int32_t>(GgmlType::kF32);
    tensor.num_elements = 1;
    for (const int64_t dim : report.shape) tensor.num_elements *= dim;
    tensor.size_bytes = report.file_bytes;
    tensors_.push_back(std::move(tensor));
  }

  absl::StatusOr<std::vector<float>> Values(const SourceTensor& tensor, int64_t first,
                                            int64_t count) const {
    const auto cols = static_cast<int32_t>(tensor.dims[0]);
    if (tensor.name == "rope_freqs.weight") return rope_factors_;
    if (tensor.dims.size() == 1) return source_.LoadVector(tensor.name, cols);
    NIBBLE_ASSIGN_OR_RETURN(
        const quant::Matrix matrix,
        source_.LoadRows(tensor.name, static_cast<int32_t>(tensor.dims[1]), cols,
                         {static_cast<int32_t>(first), static_cast<int32_t>(count)}));
    std::vector<float> values(static_cast<size_t>(count) * cols);
    for (int32_t row = 0; row < count; ++row) {
      quant::DequantizeRow(matrix, row, values.data() + static_cast<size_t>(row) * cols);
    }
    return values;
  }

  const WeightSource& source_;
  const HeadCounts counts_;
  const std::string name_;
  const std::vector<float> rope_factors_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

std::unique_ptr<SourceTensors> MakeSourceTensors(const GgufFile& file) {
  return std::make_unique<GgufTensors>(file);
}

std::unique_ptr<SourceTensors> MakeSourceTensors(const WeightSource& source,
                                                 const ModelConfig& config, const std::string& name,
                                                 absl::Span<const std::string> order,
                                                 std::vector<float> rope_factors) {
  return std::make_unique<OtherTensors>(source, config, name, order, std::move(rope_factors));
}

}  // namespace nibble
