#include "engine/weights/hf/linear_layout.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/weights/ggml_types.h"

namespace nibble {
namespace {

// F32, F16 and BF16: the values themselves.
class PlainLayout final : public LinearLayout {
 public:
  PlainLayout(const StoredTensor& weight, GgmlType ggml_type)
      : weight_(weight), ggml_type_(ggml_type) {
    rows_ = static_cast<int32_t>(weight.shape()[0]);
    cols_ = static_cast<int32_t>(weight.shape()[1]);
    type_ = std::string(TypeName(weight.type()));
    file_bytes_ = weight.info().size_bytes;
    form_ = *CanonicalFormOf(ggml_type);
  }

  absl::StatusOr<quant::Matrix> Load(int32_t first, int32_t count) const override {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            weight_.Window(first, count, 0, cols_));
    absl::StatusOr<quant::Matrix> matrix = ToCanonical(ggml_type_, bytes, count, cols_);
    if (!matrix.ok()) return weight_.Problem(matrix.status().code(), matrix.status().message());
    return matrix;
  }

 private:
  const StoredTensor weight_;
  const GgmlType ggml_type_;
};

bool IsFp8(SafetensorsType type) {
  return type == SafetensorsType::kF8E4m3 || type == SafetensorsType::kF8E5m2;
}

absl::Status NeedsMethod(const ModuleTensors& tensors, absl::string_view suffix,
                         const QuantConfig& config, absl::string_view needed) {
  return tensors.Find(suffix)->Problem(
      absl::StatusCode::kUnimplemented,
      absl::StrCat("is packed, and config.json names ",
                   config.name.empty() ? "no quant_method" : config.name, ", needed ", needed));
}

}  // namespace

const StoredTensor* ModuleTensors::Find(absl::string_view suffix) const {
  return set_.Find(absl::StrCat(module_, ".", suffix));
}

absl::StatusOr<const StoredTensor*> ModuleTensors::Get(absl::string_view suffix) const {
  const StoredTensor* tensor = Find(suffix);
  if (tensor != nullptr) return tensor;
  return absl::NotFoundError(absl::StrCat("tensor '", module_, ".", suffix, "' is absent"));
}

absl::StatusOr<const StoredTensor*> ModuleTensors::Get(absl::string_view suffix,
                                                       std::vector<int64_t> shape) const {
  NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* tensor, Get(suffix));
  if (tensor->shape() == absl::MakeConstSpan(shape)) return tensor;
  return tensor->Problem(
      absl::StatusCode::kInvalidArgument,
      absl::StrCat("is ", tensor->Describe(), ", needed [", absl::StrJoin(shape, ", "), "]"));
}

int64_t ModuleTensors::TotalBytes() const {
  int64_t bytes = 0;
  const std::string prefix = module_ + ".";
  for (auto it = set_.tensors().lower_bound(prefix);
       it != set_.tensors().end() && absl::StartsWith(it->first, prefix); ++it) {
    if (it->first != prefix + "bias") bytes += it->second.info().size_bytes;
  }
  return bytes;
}

int64_t LinearLayout::canonical_bytes() const {
  const int64_t elements = int64_t{rows_} * cols_;
  if (form_.format == quant::Format::kFp8) {  // the CPU keeps a scale a row and group
    return elements +
           int64_t{rows_} * ((cols_ + form_.group - 1) / form_.group) * form_.scale_bytes;
  }
  return CanonicalBytes(form_, elements);
}

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenPlain(const ModuleTensors& tensors) {
  NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* weight, tensors.Get("weight"));
  switch (weight->type()) {
    case SafetensorsType::kF32:
      return std::make_unique<PlainLayout>(*weight, GgmlType::kF32);
    case SafetensorsType::kF16:
      return std::make_unique<PlainLayout>(*weight, GgmlType::kF16);
    case SafetensorsType::kBF16:
      return std::make_unique<PlainLayout>(*weight, GgmlType::kBF16);
    default:
      return weight->Problem(absl::StatusCode::kUnimplemented,
                             absl::StrCat("is ", weight->Describe(),
                                          ", needed F32, F16 or BF16, or a quantized layout"));
  }
}

absl::StatusOr<std::unique_ptr<LinearLayout>> OpenLinear(const ModuleTensors& tensors,
                                                         const QuantConfig& config) {
  if (tensors.Find("qweight") != nullptr) {
    if (config.method == QuantMethod::kGptq) return OpenGptq(tensors, config);
    if (config.method == QuantMethod::kAwq) return OpenAwq(tensors);
    return NeedsMethod(tensors, "qweight", config, "gptq or awq");
  }
  if (tensors.Find("weight_packed") != nullptr) {
    if (config.method == QuantMethod::kCompressedTensors) return OpenPackedInt(tensors);
    return NeedsMethod(tensors, "weight_packed", config, "compressed-tensors");
  }
  NIBBLE_ASSIGN_OR_RETURN(const StoredTensor* weight, tensors.Get("weight"));
  if (tensors.Find("weight.absmax") != nullptr) return OpenBnb4(tensors);
  if (tensors.Find("SCB") != nullptr) return OpenBnbInt8(tensors);
  if (weight->shape().size() != 2 || weight->num_elements() == 0 ||
      weight->shape()[0] > kMaxMatrixSide || weight->shape()[1] > kMaxMatrixSide) {
    return weight->Problem(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("is ", weight->Describe(), ", needed a matrix"));
  }
  if (IsFp8(weight->type())) return OpenScaledFp8(tensors);
  if (weight->type() == SafetensorsType::kI8) return OpenScaledInt8(tensors);
  return OpenPlain(tensors);
}

}  // namespace nibble
