#include "engine/hf_model.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/gguf_model.h"

namespace nibble {
namespace {

// An embedding that is the head may be stored twice, and Llama's biases are known by their tensors.
bool IsSpare(absl::string_view name, const ModelConfig& config) {
  return config.tied_head && absl::StartsWith(name, "output.");
}

absl::Status CheckShape(const std::string& file, const TensorShape& needed,
                        const std::map<std::string, TensorReport>& found) {
  const auto it = found.find(needed.name);
  const std::string shape = absl::StrCat("the config needs [", absl::StrJoin(needed.shape, ", "),
                                         "]; is config.json for another model?");
  if (it == found.end()) {
    return absl::NotFoundError(
        absl::StrCat(file, ": tensor '", needed.name, "' is absent, ", shape));
  }
  if (it->second.shape == needed.shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(file, ": tensor '", needed.name, "' is [",
                                                 absl::StrJoin(it->second.shape, ", "), "], ",
                                                 shape));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HfModel>> HfModel::Open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(ModelFolder folder, ModelFolder::Open(path));
  NIBBLE_ASSIGN_OR_RETURN(std::string text, folder.ReadText(kHfConfig, JsonLimits().bytes));
  NIBBLE_ASSIGN_OR_RETURN(
      JsonObject config,
      JsonObject::Parse(text, absl::StrCat(folder.name(), "/", kHfConfig), JsonLimits()));
  NIBBLE_ASSIGN_OR_RETURN(QuantConfig quantization, ReadQuantConfig(config, folder));
  NIBBLE_ASSIGN_OR_RETURN(TensorSet tensors, TensorSet::Open(folder));
  return std::unique_ptr<HfModel>(new HfModel(std::move(folder), std::move(text), std::move(config),
                                              std::move(tensors), std::move(quantization)));
}

std::unique_ptr<HfSource> HfModel::Source(const ModelConfig& config) const {
  const bool turned = config.rope_layout == RopeLayout::kInterleaved;
  return MakeHfSource(
      tensors_, quantization_,
      {.interleave_head_dim = turned ? config.head_dim : 0, .config_text = config_text_});
}

absl::Status CheckHfTensors(const HfSource& source, const std::string& name, ModelConfig& config) {
  config.qkv_bias = source.Has("blk.0.attn_q.bias");
  for (const HfSource::Problem& problem : source.problems()) {
    if (IsSpare(problem.tensor, config)) continue;
    const std::string message(problem.status.message());
    const bool is_named = absl::StartsWith(message, name);
    return is_named ? problem.status
                    : absl::Status(problem.status.code(), absl::StrCat(name, ": ", message));
  }
  std::map<std::string, TensorReport> found;
  for (TensorReport& report : source.Report()) found.emplace(report.name, std::move(report));
  std::set<std::string> known;
  for (const TensorShape& needed : NeededTensors(config)) {
    NIBBLE_RETURN_IF_ERROR(CheckShape(name, needed, found));
    known.insert(needed.name);
  }
  for (const auto& [tensor, report] : found) {
    if (known.count(tensor) != 0 || IsSpare(tensor, config)) continue;
    return absl::UnimplementedError(absl::StrCat(
        name, ": tensor '", tensor, "' has no place in a ", config.num_layers, "-layer ",
        config.architecture, " model as implemented; is config.json for another model?"));
  }
  return absl::OkStatus();
}

}  // namespace nibble
