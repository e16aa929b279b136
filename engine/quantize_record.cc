#include "engine/quantize_record.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/gguf_writer.h"

namespace nibble {
namespace {

constexpr absl::string_view kPrefix = "nibble.quantize.";
constexpr absl::string_view kEvalPrefix = "nibble.quantize.eval.";
constexpr int64_t kPieceBytes = int64_t{4} << 20;

std::string Text(const GgufFile& file, absl::string_view key) {
  return file.GetString(key).value_or("");
}

std::optional<EvaluationRecord> ReadEvaluation(const GgufFile& file) {
  const auto key = [](absl::string_view name) { return absl::StrCat(kEvalPrefix, name); };
  const auto number = [&](absl::string_view name) { return file.GetFloat(key(name)).value_or(0); };
  if (!file.Has(key("kl"))) return std::nullopt;
  EvaluationRecord record;
  record.kl = number("kl");
  record.kl_standard_error = number("kl_standard_error");
  record.kl_p99 = number("kl_p99");
  record.top1_agreement = number("top1_agreement");
  record.perplexity = number("perplexity");
  record.perplexity_source = number("perplexity_source");
  record.tokens = file.GetInt(key("tokens")).value_or(0);
  record.text_sha256 = Text(file, key("text_sha256"));
  record.protocol = Text(file, key("protocol"));
  return record;
}

void SetEvaluation(const EvaluationRecord& record, GgufKeys& keys) {
  const auto key = [](absl::string_view name) { return absl::StrCat(kEvalPrefix, name); };
  keys.RemoveAll(kEvalPrefix);
  keys.SetF64(key("kl"), record.kl);
  keys.SetF64(key("kl_standard_error"), record.kl_standard_error);
  keys.SetF64(key("kl_p99"), record.kl_p99);
  keys.SetF64(key("top1_agreement"), record.top1_agreement);
  keys.SetF64(key("perplexity"), record.perplexity);
  keys.SetF64(key("perplexity_source"), record.perplexity_source);
  keys.SetU64(key("tokens"), static_cast<uint64_t>(record.tokens));
  keys.SetString(key("text_sha256"), record.text_sha256);
  keys.SetString(key("protocol"), record.protocol);
}

absl::Status CopyTensor(const GgufFile& file, size_t index, std::vector<uint8_t>& buffer,
                        GgufFileWriter& writer) {
  const GgufTensor& tensor = file.tensors()[index];
  for (int64_t at = 0; at < tensor.size_bytes; at += kPieceBytes) {
    const int64_t size = std::min(kPieceBytes, tensor.size_bytes - at);
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> bytes,
                            file.Read(tensor, at, size, buffer));
    NIBBLE_RETURN_IF_ERROR(writer.Write(index, at, bytes));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<QuantizeProvenance> ReadProvenance(const GgufFile& file) {
  const auto text = [&](absl::string_view key) { return Text(file, absl::StrCat(kPrefix, key)); };
  if (!file.Has(absl::StrCat(kPrefix, "source_sha256"))) return std::nullopt;
  QuantizeProvenance quantized;
  quantized.method = text("method");
  quantized.type = text("type");
  quantized.options = text("options");
  quantized.tool = text("tool");
  quantized.source_sha256 = text("source_sha256");
  quantized.importance_sha256 = text("importance_sha256");
  quantized.calibration_sha256 = text("calibration_sha256");
  const auto names = file.GetStrings(absl::StrCat(kPrefix, "tensors"));
  const auto errors = file.GetFloats(absl::StrCat(kPrefix, "tensor_errors"));
  if (names.ok() && errors.ok() && names->size() == errors->size()) {
    for (size_t i = 0; i < names->size(); ++i) {
      quantized.tensor_errors.emplace_back((*names)[i], (*errors)[i]);
    }
  }
  quantized.evaluation = ReadEvaluation(file);
  return quantized;
}

absl::Status RecordEvaluation(const std::string& path, const EvaluationRecord& record) {
  NIBBLE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  if (!ReadProvenance(file).has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": does not name the model it was quantized from (", kPrefix,
                     "source_sha256): figures against a source would say nothing"));
  }
  GgufKeys keys = GgufKeys::CopyOf(file);
  SetEvaluation(record, keys);
  std::vector<GgufTensorPlan> plans;
  for (const GgufTensor& tensor : file.tensors()) {
    plans.push_back({tensor.name, tensor.dims, static_cast<GgmlType>(tensor.ggml_type)});
  }
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  NIBBLE_ASSIGN_OR_RETURN(GgufFileWriter writer,
                          GgufFileWriter::Create(real.string(), keys, plans));
  std::vector<uint8_t> buffer;
  for (size_t i = 0; i < plans.size(); ++i) {
    NIBBLE_RETURN_IF_ERROR(CopyTensor(file, i, buffer, writer));
  }
  return writer.Finish(keys);
}

}  // namespace nibble
