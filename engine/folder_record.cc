#include "engine/folder_record.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/partial_file.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

std::string Key(absl::string_view name) { return absl::StrCat("nibble.quantize.", name); }
std::string EvalKey(absl::string_view name) { return absl::StrCat("nibble.quantize.eval.", name); }

// Every member of the record and its key, for reading and for writing alike.
template <typename Record, typename Number, typename Text>
absl::Status ForEachField(Record& record, Number number, Text text) {
  NIBBLE_RETURN_IF_ERROR(number("kl", record.kl));
  NIBBLE_RETURN_IF_ERROR(number("kl_standard_error", record.kl_standard_error));
  NIBBLE_RETURN_IF_ERROR(number("kl_p99", record.kl_p99));
  NIBBLE_RETURN_IF_ERROR(number("top1_agreement", record.top1_agreement));
  NIBBLE_RETURN_IF_ERROR(number("perplexity", record.perplexity));
  NIBBLE_RETURN_IF_ERROR(number("perplexity_source", record.perplexity_source));
  NIBBLE_RETURN_IF_ERROR(text("text_sha256", record.text_sha256));
  return text("protocol", record.protocol);
}

absl::Status ReadText(const JsonObject& json, const std::string& key, std::string& out) {
  NIBBLE_ASSIGN_OR_RETURN(out, json.String(key, ""));
  return absl::OkStatus();
}

absl::StatusOr<EvaluationRecord> ReadEvaluation(const JsonObject& json) {
  EvaluationRecord record;
  const auto number = [&json](absl::string_view name, double& out) -> absl::Status {
    NIBBLE_ASSIGN_OR_RETURN(out, json.Number(EvalKey(name), 0));
    return absl::OkStatus();
  };
  const auto text = [&json](absl::string_view name, std::string& out) {
    return ReadText(json, EvalKey(name), out);
  };
  NIBBLE_RETURN_IF_ERROR(ForEachField(record, number, text));
  NIBBLE_ASSIGN_OR_RETURN(record.tokens, json.Int(EvalKey("tokens"), 0, int64_t{1} << 53, 0));
  return record;
}

absl::Status ReadErrors(const JsonObject& json, QuantizeProvenance& quantized) {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<std::string> names, json.Strings(Key("tensors")));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<double> errors, json.Numbers(Key("tensor_errors")));
  if (names.size() != errors.size()) {
    return json.Unfit(Key("tensor_errors"),
                      absl::StrCat("needed a number for each of ", names.size(), " tensors"));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (!(errors[i] >= 0 && errors[i] <= std::numeric_limits<float>::max())) {
      return json.Unfit(Key("tensor_errors"), absl::StrCat("entry ", i, " of it is no error"));
    }
    quantized.tensor_errors.emplace_back(std::move(names[i]), static_cast<float>(errors[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<QuantizeProvenance>> ReadProvenance(const JsonObject& json) {
  std::optional<QuantizeProvenance> quantized;
  if (!json.Has(Key("source_sha256"))) return quantized;
  QuantizeProvenance& out = quantized.emplace();
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("source_sha256"), out.source_sha256));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("method"), out.method));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("layout"), out.type));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("options"), out.options));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("tool"), out.tool));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("importance_sha256"), out.importance_sha256));
  NIBBLE_RETURN_IF_ERROR(ReadText(json, Key("calibration_sha256"), out.calibration_sha256));
  NIBBLE_RETURN_IF_ERROR(ReadErrors(json, out));
  if (json.Has(EvalKey("kl"))) {
    NIBBLE_ASSIGN_OR_RETURN(out.evaluation, ReadEvaluation(json));
  }
  return quantized;
}

absl::StatusOr<std::optional<QuantizeProvenance>> ProvenanceOf(const ModelFile& model) {
  if (model.gguf() != nullptr) return ReadProvenance(*model.gguf());
  if (!IsModelFolder(model.name())) return std::optional<QuantizeProvenance>();
  NIBBLE_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(model.name()));
  if (!folder.Has(kProvenanceJson)) return std::optional<QuantizeProvenance>();
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject json, folder.ReadJson(kProvenanceJson, JsonLimits()));
  return ReadProvenance(json);
}

absl::Status RecordFolderEvaluation(const std::string& path, const EvaluationRecord& record) {
  NIBBLE_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(path));
  NIBBLE_ASSIGN_OR_RETURN(const std::string text,
                          folder.ReadText(kProvenanceJson, JsonLimits().bytes));
  const std::string name = absl::StrCat(folder.name(), "/", kProvenanceJson);
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject bounded, JsonObject::Parse(text, name, JsonLimits()));
  NIBBLE_ASSIGN_OR_RETURN(const auto quantized, ReadProvenance(bounded));
  if (!quantized.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": does not name the model it was quantized from (",
                     Key("source_sha256"), "): figures against a source would say nothing"));
  }
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);  // valid: it was parsed above
  const auto number = [&json](absl::string_view key, double value) {
    json[EvalKey(key)] = value;
    return absl::OkStatus();
  };
  const auto string = [&json](absl::string_view key, const std::string& value) {
    json[EvalKey(key)] = value;
    return absl::OkStatus();
  };
  NIBBLE_RETURN_IF_ERROR(ForEachField(record, number, string));
  json[EvalKey("tokens")] = record.tokens;
  const std::string out = json.dump(2) + "\n";
  NIBBLE_ASSIGN_OR_RETURN(const std::string real, folder.PathOf(kProvenanceJson));
  PartialFile file(real);
  NIBBLE_RETURN_IF_ERROR(file.Create());
  NIBBLE_RETURN_IF_ERROR(file.Write({reinterpret_cast<const uint8_t*>(out.data()), out.size()}));
  return file.Publish();
}

}  // namespace nibble
