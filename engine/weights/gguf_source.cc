// MakeGgufSource: a GGUF file as a WeightSource.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/weights/canonical.h"
#include "engine/weights/ggml_types.h"
#include "engine/weights/source_identity.h"
#include "engine/weights/weight_source.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// GGUF writes the contiguous dimension first, shapes are said the other way round.
std::vector<int64_t> ShapeOf(const GgufTensor& tensor) {
  return {tensor.dims.rbegin(), tensor.dims.rend()};
}

class GgufSource final : public WeightSource {
 public:
  explicit GgufSource(const GgufFile& file) : file_(file) {}

  bool Has(absl::string_view name) const override { return file_.Find(name) != nullptr; }

  // Blocks never straddle rows, so a range of rows is a range of bytes.
  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override {
    NIBBLE_ASSIGN_OR_RETURN(const GgufTensor* tensor, FindShaped(name, {rows, cols}));
    NIBBLE_CHECK(range.first >= 0 && range.count >= 1 && range.count <= rows - range.first);
    const int64_t row_bytes = tensor->size_bytes / rows;
    std::vector<uint8_t> buffer;
    absl::StatusOr<absl::Span<const uint8_t>> bytes =
        file_.Read(*tensor, range.first * row_bytes, range.count * row_bytes, buffer);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<quant::Matrix> matrix =
        ToCanonical(static_cast<GgmlType>(tensor->ggml_type), *bytes, range.count, cols);
    if (!matrix.ok()) return AboutTensor(name, matrix.status());
    return matrix;
  }

  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override {
    NIBBLE_ASSIGN_OR_RETURN(const GgufTensor* tensor, FindShaped(name, {n}));
    const auto type = static_cast<GgmlType>(tensor->ggml_type);
    std::vector<uint8_t> buffer;
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> bytes,
                            file_.Read(*tensor, 0, tensor->size_bytes, buffer));
    if (absl::Status status = CheckFinite(type, bytes); !status.ok())
      return AboutTensor(name, status);
    std::vector<float> values(n);
    DequantizeBlocks(type, bytes, n, values.data());
    return values;
  }

  absl::StatusOr<SourceIdentity> Identity() const override { return IdentityOf(file_); }

  std::vector<TensorReport> Report() const override {
    std::vector<TensorReport> reports;
    reports.reserve(file_.tensors().size());
    for (const GgufTensor& tensor : file_.tensors()) reports.push_back(ReportOf(tensor));
    return reports;
  }

 private:
  absl::Status AboutTensor(absl::string_view name, const absl::Status& status) const {
    return absl::Status(status.code(),
                        absl::StrCat(file_.name(), ": tensor '", name, "': ", status.message()));
  }

  absl::StatusOr<const GgufTensor*> FindShaped(absl::string_view name,
                                               std::vector<int64_t> shape) const {
    const GgufTensor* tensor = file_.Find(name);
    if (tensor == nullptr)
      return absl::NotFoundError(absl::StrCat(file_.name(), ": tensor '", name, "' is absent"));
    if (ShapeOf(*tensor) != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.name(), ": tensor '", name, "' is [",
                       absl::StrJoin(ShapeOf(*tensor), ", "), "], the config needs [",
                       absl::StrJoin(shape, ", "), "]; is the file for another model?"));
    }
    const GgmlTypeInfo info = TypeInfo(tensor->ggml_type);
    if (!info.readable) {
      return absl::UnimplementedError(
          absl::StrCat(file_.name(), ": tensor '", name, "' is of type ", info.name,
                       ", which this program does not read; quantize the model to Q4_0, Q4_1, "
                       "Q4_K, Q5_K, Q6_K or Q8_0"));
    }
    return tensor;
  }

  static TensorReport ReportOf(const GgufTensor& tensor) {
    TensorReport report;
    report.name = tensor.name;
    report.file_type = TypeInfo(tensor.ggml_type).name;
    report.shape = ShapeOf(tensor);
    report.file_bytes = tensor.size_bytes;
    const std::optional<CanonicalForm> form =
        CanonicalFormOf(static_cast<GgmlType>(tensor.ggml_type));
    if (!form.has_value()) return report;
    if (tensor.dims.size() == 1) {  // vectors are held in f32, whatever they are stored in
      report.canonical = "f32";
      report.canonical_bytes = tensor.num_elements * 4;
      report.converted = tensor.ggml_type != static_cast<int32_t>(GgmlType::kF32);
      return report;
    }
    report.canonical = CanonicalName(*form);
    report.canonical_bytes = CanonicalBytes(*form, tensor.num_elements);
    report.converted = form->wider;
    report.form = form;
    return report;
  }

  const GgufFile& file_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeGgufSource(const GgufFile& file) {
  return std::make_unique<GgufSource>(file);
}

}  // namespace nibble
