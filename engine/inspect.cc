#include "engine/inspect.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/folder_record.h"
#include "engine/gguf_model.h"
#include "engine/hf_model.h"
#include "engine/model_file.h"
#include "engine/random_model.h"

namespace nibble {
namespace {

// What the first bytes claim, for a file that is too broken to open.
std::string ClaimedFormat(const std::string& path) {
  unsigned char head[8] = {};
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return "";
  const size_t read = std::fread(head, 1, sizeof(head), file);
  std::fclose(file);
  if (read < sizeof(head) || std::memcmp(head, "GGUF", 4) != 0) return "";
  uint32_t version;
  std::memcpy(&version, head + 4, sizeof(version));
  return absl::StrCat("GGUF v", version);
}

// What is listed, each thing once.
void AddUnsupported(const absl::Status& status, InspectReport& report) {
  if (status.ok()) return;
  std::string message(status.message());
  const std::string prefix = absl::StrCat(report.path, ": ");
  if (absl::StartsWith(message, prefix)) message.erase(0, prefix.size());
  if (std::find(report.unsupported.begin(), report.unsupported.end(), message) ==
      report.unsupported.end()) {
    report.unsupported.push_back(std::move(message));
  }
}

// The first thing that is wrong is the report's status; all of them are listed.
void AddProblem(const absl::Status& status, InspectReport& report) {
  if (report.status.ok()) report.status = status;
  AddUnsupported(status, report);
}

// An empty tensor's other sides may be of any length: their product is not asked for.
int64_t NumElements(absl::Span<const int64_t> shape) {
  if (std::count(shape.begin(), shape.end(), 0) > 0) return 0;
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
}

void AddTensors(const WeightSource& source, InspectReport& report) {
  report.tensors = source.Report();
  std::map<std::string, int64_t> counts;
  std::map<std::string, int64_t> unreadable;
  for (const TensorReport& tensor : report.tensors) {
    ++counts[tensor.file_type];
    if (tensor.canonical.empty()) ++unreadable[tensor.file_type];
    report.num_parameters += NumElements(tensor.shape);
    report.weights_bytes += tensor.file_bytes;
    report.loaded_bytes += tensor.canonical_bytes;
  }
  report.types.assign(counts.begin(), counts.end());
  std::stable_sort(report.types.begin(), report.types.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [type, count] : unreadable) {
    report.unsupported.push_back(
        absl::StrCat(count, " tensors of type ", type, ", which this program does not read"));
  }
  if (report.num_parameters > 0) {
    report.bits_per_weight = 8.0 * static_cast<double>(report.weights_bytes) /
                             static_cast<double>(report.num_parameters);
  }
}

void AddKvBytes(InspectReport& report) {
  const ModelConfig& config = report.config;
  report.kv_bytes_per_token =
      int64_t{2} * config.num_layers * config.num_kv_heads * config.head_dim * 2;
}

void AddModel(const GgufFile& file, InspectReport& report) {
  const absl::Status read = ReadHyperparameters(file, report.config);
  AddProblem(read, report);
  AddKvBytes(report);
  if (read.ok()) AddProblem(CheckTensors(file, report.config), report);
}

std::string DescribeTokenizer(const TokenizerSpec& spec) {
  const auto id = [](absl::string_view name, int32_t value) {
    return value < 0 ? absl::StrCat(", no ", name) : absl::StrCat(", ", name, " ", value);
  };
  const bool byte_bpe = spec.model == TokenizerModel::kByteBpe;
  return absl::StrCat(
      byte_bpe ? absl::StrCat("byte-level BPE, pre ", spec.pre) : "SentencePiece-BPE", ", ",
      spec.tokens.size(), " tokens", id("bos", spec.bos_id), id("eos", spec.eos_id),
      spec.add_bos ? ", adds bos" : "", spec.add_eos ? ", adds eos" : "");
}

// Builds the tokenizer and the template, as serving would: nothing else knows what they cannot do.
// Without a template, chats are refused and all else is served.
void AddText(const GgufFile& file, InspectReport& report) {
  report.has_chat_template = file.Has("tokenizer.chat_template");
  const absl::StatusOr<TokenizerSpec> spec = ReadTokenizerSpec(file);
  if (!spec.ok()) return AddProblem(spec.status(), report);
  report.tokenizer = DescribeTokenizer(*spec);
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(file);
  if (!tokenizer.ok()) return AddProblem(tokenizer.status(), report);
  AddUnsupported(LoadChatTemplate(file, **tokenizer).status(), report);
}

void InspectFile(const std::string& path, InspectReport& report) {
  report.format = ClaimedFormat(path);
  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  if (!file.ok()) {  // Open says what else it may be
    const absl::Status other = ModelFile::Open(path).status();
    return AddProblem(other.ok() ? file.status() : other, report);
  }
  report.format = absl::StrCat("GGUF v", file->version());
  for (const std::string& key : file->Keys())
    report.metadata.emplace_back(key, file->Describe(key));
  report.quantized = ReadProvenance(*file);
  AddModel(*file, report);
  AddTensors(*MakeGgufSource(*file), report);
  AddText(*file, report);
}

// Builds the tokenizer and the template, as AddText does.
void AddFolderText(const HfModel& model, const ModelFile& file, InspectReport& report) {
  const absl::StatusOr<std::optional<std::string>> source = ReadHfChatTemplate(model.folder());
  report.has_chat_template = source.ok() && source->has_value();
  const absl::StatusOr<TokenizerSpec> spec =
      ReadHfTokenizerSpec(model.folder(), model.config(), report.config.vocab_size);
  if (!spec.ok()) return AddProblem(spec.status(), report);
  report.tokenizer = DescribeTokenizer(*spec);
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = file.LoadTokenizer();
  if (!tokenizer.ok()) return AddProblem(tokenizer.status(), report);
  AddUnsupported(file.LoadChatTemplate(**tokenizer).status(), report);
}

void AddProvenance(const ModelFile& file, InspectReport& report) {
  absl::StatusOr<std::optional<QuantizeProvenance>> quantized = ProvenanceOf(file);
  if (quantized.ok()) {
    report.quantized = *std::move(quantized);
  } else {
    report.quantized_error = std::string(quantized.status().message());
  }
}

void InspectFolder(const std::string& path, InspectReport& report) {
  const absl::StatusOr<std::unique_ptr<ModelFile>> file = ModelFile::Open(path);
  if (!file.ok()) return AddProblem(file.status(), report);
  const absl::StatusOr<std::unique_ptr<HfModel>> model = HfModel::Open(path);
  if (!model.ok()) return AddProblem(model.status(), report);
  const std::deque<SafetensorsFile>& files = (*model)->tensors().files();
  report.format =
      absl::StrCat("safetensors, ", files.size(), files.size() == 1 ? " file" : " files");
  for (const SafetensorsFile& part : files) report.file_bytes += part.size_bytes();
  for (const std::string& key : (*model)->config().Keys())
    report.metadata.emplace_back(key, (*model)->config().Describe(key));
  AddProvenance(**file, report);
  const absl::Status read = ReadHfConfig((*model)->config(), (*file)->name(), report.config);
  AddProblem(read, report);
  AddKvBytes(report);
  const std::unique_ptr<HfSource> source = (*model)->Source(report.config);
  if (read.ok()) {
    AddProblem(CheckHfTensors(*source, (*file)->name(), report.config), report);
    for (const HfSource::Problem& problem : source->problems()) AddProblem(problem.status, report);
  }
  AddTensors(*source, report);
  if (read.ok()) AddFolderText(**model, **file, report);
}

void InspectRandom(const std::string& name, InspectReport& report) {
  const absl::StatusOr<RandomModel> model = ParseRandomModel(name);
  if (!model.ok()) return AddProblem(model.status(), report);
  report.format = absl::StrCat("random weights, seed ", model->seed);
  report.config = model->config;
  AddKvBytes(report);
  AddTensors(*MakeRandomSource(*model), report);
  report.tokenizer = DescribeTokenizer(RandomVocabulary(*model));
}

}  // namespace

InspectReport Inspect(const std::string& path) {
  InspectReport report;
  report.path = path;
  if (IsRandomModel(path)) {
    InspectRandom(path, report);
    return report;
  }
  if (IsModelFolder(path)) {
    InspectFolder(path, report);
    return report;
  }
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) report.file_bytes = info.st_size;
  InspectFile(path, report);
  return report;
}

}  // namespace nibble
