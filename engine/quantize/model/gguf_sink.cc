#include "engine/quantize/model/gguf_sink.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/ggml/encode.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize/methods/ggml_blocks.h"
#include "engine/quantize/methods/parallel.h"
#include "engine/weights/ggml_types.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

constexpr int64_t kRowsAtOnce = 16;  // that one thread encodes

absl::Status Refuse(const Method& method, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("method '", method.name, "': ", why));
}

constexpr char kHeld[] =
    "a GGUF file holds int2..int8-sym and -full and int2..int5-asym, by row, tensor or groups of "
    "32 or a multiple of it; a folder (--layout) holds nf4, fp4 and fp8 too";

}  // namespace

absl::StatusOr<Method> ForGguf(Method method) {
  if (method.incoherent) {
    return Refuse(method,
                  "a rotated matrix needs its rotation undone at run time, which no ggml "
                  "type says; take the method without incoherent-");
  }
  if (method.order == ColumnOrder::kByActivationGIndex) {
    return Refuse(method,
                  "its groups are in another order than the columns (g_idx), which no ggml "
                  "type holds; take static groups: gptq-actorder-");
  }
  if (method.static_range.has_value()) {
    return Refuse(method,
                  "a GGUF file has no place for ranges of activations; take it without "
                  "-static-");
  }
  if (method.algorithm == Algorithm::kNone) {
    return Refuse(method,
                  "it is about activations and leaves the weights; take "
                  "rtn-int8-sym-channel, or smoothquant");
  }
  if (!GgmlTypeOf(method.scheme).has_value()) {
    return Refuse(method, absl::StrCat("no ggml type has the codes of ", SchemeName(method.scheme),
                                       "; ", kHeld));
  }
  method.scheme = WithBlockScales(method.scheme);
  return method;
}

MixInfo MixFor(const Method& method) {
  const GgmlType type = *GgmlTypeOf(method.scheme);
  return ParseMix(absl::AsciiStrToLower(TypeInfo(static_cast<int32_t>(type)).name)).value();
}

GgufSink::GgufSink(GgufSinkOptions options) : options_(std::move(options)) {}

size_t GgufSink::IndexOf(const std::string& name) const {
  const auto found = std::find_if(options_.recipes.begin(), options_.recipes.end(),
                                  [&](const TensorRecipe& recipe) { return recipe.name == name; });
  NIBBLE_CHECK(found != options_.recipes.end());
  return static_cast<size_t>(found - options_.recipes.begin());
}

bool GgufSink::WantsCodes(const std::string& name) const {
  return options_.recipes[IndexOf(name)].target == *GgmlTypeOf(options_.method.scheme);
}

GgufKeys GgufSink::Keys(const std::vector<TensorError>& errors) const {
  std::map<std::string, double> of;
  for (const TensorError& error : errors) of[error.name] = error.relative_error;
  std::vector<float> changed;
  for (const std::string& name : changed_) changed.push_back(static_cast<float>(of[name]));
  GgufKeys keys = options_.keys;
  SetProvenance(provenance_, options_.mix, changed_, changed, keys);
  return keys;
}

absl::Status GgufSink::Begin(const ModelPlan& plan) {
  NIBBLE_CHECK(plan.tensors.size() == options_.recipes.size());
  provenance_ = plan.provenance;
  provenance_.method = plan.method.name;
  std::vector<GgufTensorPlan> table;
  for (size_t t = 0; t < plan.tensors.size(); ++t) {
    const TensorRecipe& recipe = options_.recipes[t];
    table.push_back({recipe.name, recipe.dims, recipe.target});
    const ModelTensor& tensor = plan.tensors[t];
    if (tensor.coded || tensor.scaled || !recipe.copied) changed_.push_back(recipe.name);
  }
  NIBBLE_ASSIGN_OR_RETURN(GgufFileWriter writer,
                          GgufFileWriter::Create(options_.output, Keys({}), table));
  writer_ = std::make_unique<GgufFileWriter>(std::move(writer));
  size_bytes_ = writer_->size_bytes();
  return absl::OkStatus();
}

absl::Status GgufSink::Codes(const std::string& name, const QuantizedWeight& weight) {
  const absl::StatusOr<std::vector<uint8_t>> blocks = ToGgmlBlocks(weight);
  if (blocks.ok()) return writer_->Write(IndexOf(name), 0, *blocks);
  return absl::Status(blocks.status().code(),
                      absl::StrCat("tensor '", name, "': ", blocks.status().message()));
}

absl::StatusOr<double> GgufSink::Rows(const std::string& name, int64_t first_row,
                                      const MatrixF& values) {
  const size_t index = IndexOf(name);
  const GgmlType type = options_.recipes[index].target;
  const int64_t cols = values.cols(), row_bytes = BytesOf(type, cols);
  std::vector<uint8_t> encoded(static_cast<size_t>(values.rows() * row_bytes));
  std::vector<double> errors(static_cast<size_t>(values.rows()));
  ParallelRanges(values.rows(), kRowsAtOnce, options_.threads, [&](int64_t first, int64_t last) {
    VectorF back(cols);
    for (int64_t row = first; row < last; ++row) {
      uint8_t* out = encoded.data() + row * row_bytes;
      EncodeRow(type, absl::MakeConstSpan(values.row(row).data(), cols), {}, out);
      DequantizeBlocks(type, absl::MakeConstSpan(out, row_bytes), cols, back.data());
      errors[row] = (values.row(row).transpose() - back).cast<double>().squaredNorm();
    }
  });
  NIBBLE_RETURN_IF_ERROR(writer_->Write(index, first_row * row_bytes, encoded));
  double sum = 0;  // in the rows' order, whoever encoded them
  for (const double error : errors) sum += error;
  return sum;
}

bool GgufSink::Keeps(const std::string& name) const {
  return options_.recipes[IndexOf(name)].copied;
}

absl::Status GgufSink::Raw(const std::string& name, int64_t offset,
                           absl::Span<const uint8_t> bytes) {
  return writer_->Write(IndexOf(name), offset, bytes);
}

absl::Status GgufSink::Finish(const std::vector<TensorError>& errors) {
  return writer_->Finish(Keys(errors));
}

}  // namespace nibble::quantize
