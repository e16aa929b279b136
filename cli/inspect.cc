#include "cli/inspect.h"

#include <algorithm>
#include <iomanip>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/inspect_machine.h"
#include "cli/inspect_remote.h"
#include "cli/local_model.h"
#include "cli/provenance.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

const char* RopeScalingName(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kLlama3:
      return "llama3";
  }
  return "none";
}

Json ShapeJson(const ModelConfig& config) {
  return {{"layers", config.num_layers},
          {"hidden_size", config.hidden_size},
          {"ffn_size", config.ffn_size},
          {"heads", config.num_heads},
          {"kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"context_length", config.context_length},
          {"rms_epsilon", config.rms_epsilon},
          {"rope_base", config.rope_base},
          {"rope_scaling", RopeScalingName(config.rope_scaling)},
          {"tied_head", config.tied_head},
          {"qkv_bias", config.qkv_bias}};
}

Json TensorJson(const TensorReport& tensor) {
  return {{"name", tensor.name},           {"type", tensor.file_type},
          {"shape", tensor.shape},         {"bytes", tensor.file_bytes},
          {"canonical", tensor.canonical}, {"canonical_bytes", tensor.canonical_bytes},
          {"converted", tensor.converted}};
}

// Bits a weight of every tensor of `type` together.
double BitsOf(const InspectReport& report, const std::string& type) {
  int64_t bytes = 0, elements = 0;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.file_type != type) continue;
    int64_t count = 1;
    for (int64_t dim : tensor.shape) count *= dim;
    bytes += tensor.file_bytes;
    elements += count;
  }
  return elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

std::vector<const TensorReport*> Converted(const InspectReport& report) {
  std::vector<const TensorReport*> converted;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.converted) converted.push_back(&tensor);
  }
  return converted;
}

std::string MiB(int64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

// Bytes a token in every type a cache can have.
Json CacheJson(const ModelConfig& config) {
  Json json = Json::object();
  for (const auto& [name, type] : KvCacheTypes()) json[name] = KvBytesPerToken(config, type);
  return json;
}

std::string CacheText(const ModelConfig& config) {
  std::vector<std::string> parts;
  for (const auto& [name, type] : KvCacheTypes()) {
    parts.push_back(absl::StrCat(name, " ", KvBytesPerToken(config, type)));
  }
  return absl::StrCat("bytes a token: ", absl::StrJoin(parts, ", "));
}

void PrintShape(const ModelConfig& config, Lines& lines) {
  lines.Add("shape", absl::StrFormat("%d layers, hidden %d, ffn %d, %d heads, %d kv heads of %d, "
                                     "vocabulary %d, context %d",
                                     config.num_layers, config.hidden_size, config.ffn_size,
                                     config.num_heads, config.num_kv_heads, config.head_dim,
                                     config.vocab_size, config.context_length));
  lines.Add("rope", absl::StrFormat("base %g, scaling %s", config.rope_base,
                                    RopeScalingName(config.rope_scaling)));
  lines.Add("head", config.tied_head ? "tied to the embedding" : "separate");
}

void PrintWeights(const InspectReport& report, Lines& lines) {
  lines.Add("weights",
            absl::StrFormat("%d parameters, %s, %.2f bits a weight", report.num_parameters,
                            MiB(report.weights_bytes), report.bits_per_weight));
  for (const auto& [type, count] : report.types) {
    lines.Add("  " + type,
              absl::StrFormat("%d tensors, %.2f bits a weight", count, BitsOf(report, type)));
  }
  if (report.loaded_bytes > 0) lines.Add("loaded", MiB(report.loaded_bytes));
  if (report.kv_bytes_per_token > 0) lines.Add("kv cache", CacheText(report.config));
}

void PrintConverted(const InspectReport& report, Lines& lines) {
  const std::vector<const TensorReport*> converted = Converted(report);
  if (converted.empty()) {
    lines.Add("converted", report.tensors.empty() ? "" : "nothing");
    return;
  }
  int64_t extra = 0;
  for (const TensorReport* tensor : converted) {
    extra += tensor->canonical_bytes - tensor->file_bytes;
  }
  lines.Add("converted", absl::StrFormat("%d tensors to a wider format, %s more than in the file",
                                         converted.size(), MiB(extra)));
}

// A plan is of a file, or of a shape.
absl::Status Validate(const InspectFlags& flags) {
  std::vector<std::string> found;
  if (!flags.file.empty()) found.push_back(absl::StrCat("the file ", flags.file));
  if (flags.plan.plan) found = {"--plan"};
  if (flags.machine) found.push_back("--machine");
  if (!flags.remote.server.empty()) found.push_back("--server");
  if (found.size() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      found.empty() ? "file: found nothing, needed a GGUF file or a model folder"
                    : absl::StrCat("found ", absl::StrJoin(found, " and "),
                                   ", needed one of a file, --machine, --server and --plan"));
}

}  // namespace

void AddInspectFlags(Flags& flags, InspectFlags& inspect) {
  flags
      .AddPositional("file", inspect.file,
                     "GGUF file, folder with config.json, or random:SHAPE[:FORMAT]")
      ->type_name("FILE");
  flags.Add("--machine", inspect.machine, "Instead of a file: this machine, and what runs on it");
  flags.Add("--tensors", inspect.tensors, "List every tensor");
  flags.Add("--metadata", inspect.metadata, "List every key of the file");
  AddRemoteFlags(flags, inspect.remote);
  AddPlanFlags(flags, inspect.plan);
  flags.Rivals({"file", "--machine", "--server"});
  flags.Rivals({"--plan", "--machine", "--server"});
  AddOutputFlag(flags, inspect.output);
}

Json InspectJson(const InspectReport& report) {
  Json json = {{"path", report.path},
               {"file_bytes", report.file_bytes},
               {"format", report.format},
               {"ok", report.status.ok()},
               {"error", nullptr},
               {"architecture", report.config.architecture},
               {"name", report.config.name},
               {"shape", ShapeJson(report.config)},
               {"parameters", report.num_parameters},
               {"weights_bytes", report.weights_bytes},
               {"loaded_bytes", report.loaded_bytes},
               {"bits_per_weight", report.bits_per_weight},
               {"kv_bytes_per_token", report.kv_bytes_per_token},
               {"kv_bytes_per_token_by_type", CacheJson(report.config)},
               {"tokenizer", report.tokenizer},
               {"has_chat_template", report.has_chat_template}};
  if (!report.status.ok()) {
    json["error"] = {{"code", absl::StatusCodeToString(report.status.code())},
                     {"message", std::string(report.status.message())}};
  }
  json["types"] = Json::array();
  for (const auto& [type, count] : report.types) {
    json["types"].push_back(
        {{"type", type}, {"tensors", count}, {"bits_per_weight", BitsOf(report, type)}});
  }
  json["tensors"] = Json::array();
  for (const TensorReport& tensor : report.tensors) json["tensors"].push_back(TensorJson(tensor));
  json["converted"] = Json::array();
  for (const TensorReport* tensor : Converted(report)) json["converted"].push_back(tensor->name);
  json["unsupported"] = report.unsupported;
  json["quantized"] = ProvenanceJson(report.quantized);
  if (!report.quantized_error.empty()) json["quantized_error"] = report.quantized_error;
  json["metadata"] = Json::object();
  for (const auto& [key, value] : report.metadata) json["metadata"][key] = value;
  return json;
}

void PrintInspectText(const InspectReport& report, const InspectFlags& flags, std::ostream& out) {
  Lines lines(out);
  lines.Add("file", report.path);
  lines.Add("format", absl::StrCat(report.format, report.format.empty() ? "" : ", ",
                                   report.file_bytes, " bytes"));
  lines.Add("architecture", report.config.architecture);
  lines.Add("name", report.config.name);
  if (report.config.num_layers > 0) PrintShape(report.config, lines);
  if (!report.tensors.empty()) PrintWeights(report, lines);
  PrintConverted(report, lines);
  lines.Add("tokenizer", report.tokenizer);
  if (report.status.ok()) lines.Add("chat template", report.has_chat_template ? "yes" : "none");
  if (report.quantized.has_value()) PrintProvenance(*report.quantized, lines);
  if (!report.quantized_error.empty()) {
    lines.Add("quantized", absl::StrCat("how is not known: ", report.quantized_error));
  }
  for (const std::string& thing : report.unsupported) lines.Add("unsupported", thing);
  if (flags.metadata) {
    for (const auto& [key, value] : report.metadata) {
      const bool printable = IsPrintableName(key, key.size());
      out << (printable ? key : QuoteForMessage(key)) << " = " << value << "\n";
    }
  }
  if (flags.tensors) {
    for (const TensorReport& tensor : report.tensors) {
      out << absl::StreamFormat("%-32s %-6s [%s] %d bytes -> %s\n", tensor.name, tensor.file_type,
                                absl::StrJoin(tensor.shape, ", "), tensor.file_bytes,
                                tensor.canonical);
    }
  }
  lines.Add("verdict", report.status.ok()
                           ? std::string("can be served")
                           : absl::StrCat("cannot be served: ", report.status.message()));
  out.flush();
}

int RunInspect(const InspectFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  if (flags.machine) return RunInspectMachine(flags.output, io);
  if (!flags.remote.server.empty()) return RunInspectRemote(flags.remote, flags.output, io);
  if (flags.plan.plan) return RunPlan(flags.file, flags.plan, flags.output, io);
  const InspectReport report = Inspect(flags.file);
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out, InspectJson(report), 2);
  } else {
    PrintInspectText(report, flags, io.out);
  }
  return report.status.ok() ? kExitOk : Fail(io, report.status);
}

}  // namespace nibble
