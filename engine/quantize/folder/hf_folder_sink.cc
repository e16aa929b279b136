#include "engine/quantize/folder/hf_folder_sink.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/packing_parts.h"
#include "engine/quantize/folder/row_order.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "engine/weights/hf/hf_source.h"
#include "engine/weights/hf/model_folder.h"
#include "kernels/check.h"
#include "kernels/half.h"

namespace nibble::quantize {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::string_view kFrequencies = "rope_freqs.weight";  // config.json's rope_scaling

absl::Status Named(const std::string& name, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat("tensor '", name, "': ", status.message()));
}

// Of the layers, not the head and the embedding.
bool IsLinear(absl::string_view name) {
  return absl::StartsWith(name, "blk.") && absl::EndsWith(name, ".weight") &&
         !absl::StrContains(name, "norm");
}

bool IsTurned(absl::string_view name) {
  return absl::StrContains(name, ".attn_q.") || absl::StrContains(name, ".attn_k.");
}

SafetensorsType TypeOf(GgmlType source) {
  return source == GgmlType::kBF16 ? SafetensorsType::kBF16 : SafetensorsType::kF16;
}

// `value` as the type's bytes, and back.
absl::StatusOr<float> Store(float value, SafetensorsType type, std::vector<uint8_t>& out) {
  const auto put = [&out](auto bits) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&bits);
    out.insert(out.end(), bytes, bytes + sizeof(bits));
  };
  if (type == SafetensorsType::kF32) {
    put(value);
    return value;
  }
  const bool bf16 = type == SafetensorsType::kBF16;
  const uint16_t bits = bf16 ? F32ToBf16(value) : F32ToF16(value);
  put(bits);
  const float stored = bf16 ? Bf16ToF32(bits) : F16ToF32(bits);
  if (std::isfinite(stored) || !std::isfinite(value)) return stored;
  return absl::InvalidArgumentError(absl::StrCat(
      "value ", value, " is beyond ", TypeName(type),
      ", which its matrix has in the folder; a BF16 source keeps it, and so does a GGUF "
      "file (--type f32, no --layout)"));
}

int64_t BytesOf(const PackedTensor& part) {
  return nibble::BytesOf(SafetensorsTensorPlan{.name = "", .type = part.type, .shape = part.shape});
}

Json ProvenanceJson(const Provenance& provenance, HfLayout layout,
                    const std::vector<TensorError>& errors) {
  Json names = Json::array(), values = Json::array();
  for (const TensorError& error : errors) {
    if (error.relative_error == 0) continue;
    names.push_back(error.name);
    values.push_back(error.relative_error);
  }
  Json json = {{"nibble.quantize.source_sha256", provenance.source_sha256},
               {"nibble.quantize.method", provenance.method},
               {"nibble.quantize.layout", std::string(LayoutName(layout))},
               {"nibble.quantize.options", provenance.options}};
  if (!provenance.calibration_sha256.empty()) {
    json["nibble.quantize.calibration_sha256"] = provenance.calibration_sha256;
  }
  json["nibble.quantize.tool"] = provenance.tool;
  json["nibble.quantize.tensors"] = std::move(names);
  json["nibble.quantize.tensor_errors"] = std::move(values);
  return json;
}

}  // namespace

HfFolderSink::HfFolderSink(HfFolderOptions options) : options_(std::move(options)) {}

absl::Status HfFolderSink::Accepts(const Method& method) const {
  NIBBLE_ASSIGN_OR_RETURN(const Method fitting, InLayout(options_.layout, method));
  if (fitting.scheme == method.scheme) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("method '", method.name, "' has f32 scales, the ",
                                                 "layout ", LayoutName(options_.layout),
                                                 " keeps f16 ones"));
}

bool HfFolderSink::WantsCodes(const std::string& name) const {
  return options_.layout != HfLayout::kPlain && IsLinear(name);
}

absl::Status HfFolderSink::Begin(const ModelPlan& plan) {
  plan_ = &plan;
  NIBBLE_ASSIGN_OR_RETURN(packing_, MakePacking(options_.layout, plan.method));
  if (!Json::parse(options_.config_json, nullptr, false).is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(options_.output, ": config.json is no object"));
  }
  std::vector<SafetensorsTensorPlan> tensors;
  for (const ModelTensor& tensor : plan.tensors) {
    if (tensor.name == kFrequencies) continue;
    absl::StatusOr<Entry> entry = Place(tensor);
    if (!entry.ok()) return Named(tensor.name, entry.status());
    entry->first = tensors.size();
    for (const PackedTensor& part : entry->parts) {
      tensors.push_back({absl::StrCat(entry->module, ".", part.suffix), part.type, part.shape});
    }
    if (!entry->packed && (IsLinear(tensor.name) || tensor.name == "output.weight")) {
      plain_.push_back(entry->module);
    }
    has_bf16_ = has_bf16_ || entry->parts[0].type == SafetensorsType::kBF16;
    entries_.emplace(tensor.name, *std::move(entry));
  }
  folder_ = std::make_unique<PartialFolder>(options_.output);
  NIBBLE_RETURN_IF_ERROR(folder_->Create());
  NIBBLE_ASSIGN_OR_RETURN(
      writer_, TensorSetWriter::Create(folder_->path(), tensors, options_.max_shard_bytes));
  return absl::OkStatus();
}

absl::StatusOr<HfFolderSink::Entry> HfFolderSink::Place(const ModelTensor& tensor) const {
  absl::string_view module = tensor.name;
  const bool bias = absl::ConsumeSuffix(&module, ".bias");
  const std::optional<std::string> found =
      bias || absl::ConsumeSuffix(&module, ".weight") ? HfModuleOf(module) : std::nullopt;
  if (!found.has_value()) {
    return absl::UnimplementedError("has no place in a folder of Hugging Face's layout");
  }
  Entry entry;
  entry.module = *found;
  entry.cols = static_cast<int32_t>(tensor.shape.back());
  const bool matrix = tensor.shape.size() == 2;
  if (matrix) entry.rows = static_cast<int32_t>(tensor.shape[0]);
  const ModelConfig& config = plan_->config;
  if (IsTurned(tensor.name) && config.rope_layout == RopeLayout::kInterleaved) {
    entry.head_dim = config.head_dim;
    NIBBLE_RETURN_IF_ERROR(CheckTurnable(entry));
  }
  // Methods of activations leave the weights to whoever stores them: int8 rows.
  const bool by_rows = plan_->method.activations != Activations::kF32;
  entry.packed = packing_ != nullptr && IsLinear(tensor.name) && (tensor.coded || by_rows);
  if (entry.packed) {
    NIBBLE_RETURN_IF_ERROR(packing_->CheckShape(entry.rows, entry.cols));
    entry.parts = packing_->Plan(entry.rows, entry.cols);
    return entry;
  }
  NIBBLE_CHECK(!tensor.coded);
  const SafetensorsType type =
      !matrix ? SafetensorsType::kF32 : options_.element_type.value_or(TypeOf(tensor.source));
  entry.parts = {{bias ? "bias" : "weight", type, tensor.shape}};
  return entry;
}

absl::Status HfFolderSink::CheckTurnable(const Entry& entry) const {
  const int32_t elements = entry.rows == 1 ? entry.cols : entry.rows;
  if (elements % entry.head_dim != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", elements, " rows, needed whole heads of ", entry.head_dim));
  }
  if (plan_->method.scheme.granularity != Granularity::kBlock ||
      kFp8BlockSize % entry.head_dim == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("scales of ", kFp8BlockSize, " rows and heads of ", entry.head_dim,
                   " rows do not fit into each other; take another scheme"));
}

absl::Status HfFolderSink::Codes(const std::string& name, const QuantizedWeight& weight) {
  const Entry& entry = entries_.at(name);
  NIBBLE_CHECK(entry.packed && weight.rows == entry.rows && weight.cols == entry.cols);
  const auto packed =
      packing_->Pack(entry.head_dim > 0 ? InHalvesOrder(weight, entry.head_dim) : weight);
  if (!packed.ok()) return Named(name, packed.status());
  for (size_t i = 0; i < packed->size(); ++i) {
    NIBBLE_RETURN_IF_ERROR(writer_->Write(entry.first + i, 0, packed->at(i)));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> HfFolderSink::Rows(const std::string& name, int64_t first_row,
                                          const MatrixF& values) {
  if (name == kFrequencies) return 0.0;
  const Entry& entry = entries_.at(name);
  absl::StatusOr<double> error =
      entry.packed ? PackRows(entry, first_row, values) : PlainRows(entry, first_row, values);
  if (!error.ok()) return Named(name, error.status());
  return error;
}

absl::Status HfFolderSink::Raw(const std::string& name, int64_t, absl::Span<const uint8_t>) {
  NIBBLE_CHECK(Keeps(name));
  return absl::OkStatus();
}

// Bytes of `count` rows of a part whose rows are the matrix's.
absl::Status HfFolderSink::WriteRows(const Entry& entry, size_t part, int64_t first_row,
                                     int64_t count, absl::Span<const uint8_t> bytes) {
  const size_t index = entry.first + part;
  const int64_t row_bytes = static_cast<int64_t>(bytes.size()) / count;
  if (entry.head_dim == 0) return writer_->Write(index, first_row * row_bytes, bytes);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = HalfRowOf(static_cast<int32_t>(first_row + i), entry.head_dim);
    NIBBLE_RETURN_IF_ERROR(writer_->Write(
        index, row * row_bytes,
        bytes.subspan(static_cast<size_t>(i * row_bytes), static_cast<size_t>(row_bytes))));
  }
  return absl::OkStatus();
}

// Each row by itself: the schemes of such methods have a scale a row.
absl::StatusOr<double> HfFolderSink::PackRows(const Entry& entry, int64_t first_row,
                                              const MatrixF& values) {
  const QuantizedWeight weight = RoundToNearest(values, plan_->method.scheme, 1);
  NIBBLE_CHECK(weight.tile.rows == 1 && weight.tile.cols == entry.cols);
  NIBBLE_ASSIGN_OR_RETURN(const auto packed, packing_->Pack(weight));
  for (size_t i = 0; i < packed.size(); ++i) {
    if (entry.parts[i].shape.empty()) {  // of the whole matrix
      NIBBLE_RETURN_IF_ERROR(writer_->Write(entry.first + i, 0, packed[i]));
    } else {
      NIBBLE_RETURN_IF_ERROR(WriteRows(entry, i, first_row, values.rows(), packed[i]));
    }
  }
  return (values - Dequantize(weight)).cast<double>().squaredNorm();
}

absl::StatusOr<double> HfFolderSink::PlainRows(const Entry& entry, int64_t first_row,
                                               const MatrixF& values) {
  const SafetensorsType type = entry.parts[0].type;
  std::vector<uint8_t> bytes;
  bytes.reserve(static_cast<size_t>(values.size()) * TypeBits(type) / 8);
  double error = 0;
  for (int64_t i = 0; i < values.size(); ++i) {
    const float value = values.data()[i];
    NIBBLE_ASSIGN_OR_RETURN(const float stored, Store(value, type, bytes));
    const double off = static_cast<double>(value) - stored;
    error += off * off;
  }
  const bool vector = entry.parts[0].shape.size() == 1;  // a bias: its elements are the rows
  NIBBLE_CHECK(BytesOf(entry.parts[0]) >= static_cast<int64_t>(bytes.size()));
  NIBBLE_RETURN_IF_ERROR(
      WriteRows(entry, 0, first_row, vector ? values.size() : values.rows(), bytes));
  return error;
}

std::string HfFolderSink::ConfigText() const {
  Json config = Json::parse(options_.config_json);
  config.erase("quantization_config");
  // GPTQ's and AWQ's kernels compute in f16; else what the matrices are that were left alone.
  const bool f16 = options_.layout == HfLayout::kGptq || options_.layout == HfLayout::kGptqV2 ||
                   options_.layout == HfLayout::kAwq;
  const bool f32 = options_.element_type == SafetensorsType::kF32;
  const char* type = f16 ? "float16" : has_bf16_ ? "bfloat16" : f32 ? "float32" : "float16";
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = type;
  if (packing_ != nullptr) config["quantization_config"] = packing_->Config(plain_);
  return config.dump(2) + "\n";
}

absl::Status HfFolderSink::Finish(const std::vector<TensorError>& errors) {
  NIBBLE_RETURN_IF_ERROR(writer_->Finish());
  for (const auto& [name, text] : options_.files) {
    NIBBLE_RETURN_IF_ERROR(folder_->WriteText(name, text));
  }
  const std::string how = ProvenanceJson(plan_->provenance, options_.layout, errors).dump(2) + "\n";
  NIBBLE_RETURN_IF_ERROR(folder_->WriteText(kProvenanceJson, how));
  NIBBLE_RETURN_IF_ERROR(folder_->WriteText("config.json", ConfigText()));
  return folder_->Publish();
}

int64_t HfFolderSink::size_bytes() const { return writer_->size_bytes(); }

}  // namespace nibble::quantize
