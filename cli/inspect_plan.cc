#include "cli/inspect_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cli/model_flags.h"
#include "cli/parse.h"
#include "engine/base/status_macros.h"
#include "engine/config_bounds.h"
#include "engine/random_model.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGB = 1e9;
constexpr double kKiB = 1024, kGiB = 1024.0 * 1024 * 1024;

absl::Status NothingToPlan() {
  return absl::InvalidArgumentError(
      absl::StrCat("--plan: found no model, needed a model file, random:SHAPE (",
                   absl::StrJoin(RandomShapes(), ", "),
                   "), --parameters, or a shape by --layers, --heads, --head-dim .."));
}

// A name without a format is a shape; everything else is what `nibble inspect` opens.
absl::Status ReadModel(const std::string& model, PlanSubject& subject) {
  const std::vector<std::string> parts = absl::StrSplit(model, ':');
  if (IsRandomModel(model) && parts.size() == 2) {
    absl::StatusOr<ModelConfig> shape = RandomShape(parts[1]);
    if (!shape.ok()) {
      return absl::Status(shape.status().code(),
                          absl::StrCat("model '", model, "': ", shape.status().message()));
    }
    subject.config = *std::move(shape);
    return absl::OkStatus();
  }
  InspectReport report = Inspect(model);
  if (report.config.num_layers == 0) return report.status;  // nothing that could be planned
  subject.config = report.config;
  subject.file_report = std::move(report);
  return absl::OkStatus();
}

// Flags win over the model's own: "the same with 8 kv heads".
void ApplyShapeFlags(const PlanFlags& flags, ModelConfig& config) {
  const auto set = [](int32_t value, int32_t& out) {
    if (value > 0) out = value;
  };
  set(flags.layers, config.num_layers);
  set(flags.hidden, config.hidden_size);
  set(flags.ffn, config.ffn_size);
  set(flags.heads, config.num_heads);
  if (flags.heads > 0 && flags.kv_heads == 0) config.num_kv_heads = flags.heads;
  set(flags.kv_heads, config.num_kv_heads);
  if (config.head_dim == 0 && config.num_heads > 0) {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  set(flags.head_dim, config.head_dim);
  set(flags.vocab, config.vocab_size);
  config.tied_head = config.tied_head || flags.tied_head;
}

absl::Status CheckWidths(const ModelConfig& config) {
  const int64_t width = int64_t{config.num_heads} * config.head_dim;
  if (width > kMaxWidth || config.num_kv_heads > config.num_heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("--heads: found ", config.num_heads, " heads of ", config.head_dim, " and ",
                     config.num_kv_heads, " kv heads, needed at most ", kMaxWidth,
                     " columns together and no more kv heads than heads"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PlanSubject> ReadSubject(const std::string& model, const PlanFlags& flags) {
  PlanSubject subject;
  subject.name = model;
  if (!model.empty()) NIBBLE_RETURN_IF_ERROR(ReadModel(model, subject));
  ModelConfig& config = subject.config;
  ApplyShapeFlags(flags, config);
  subject.has_cache_shape = config.num_layers > 0 && config.num_kv_heads > 0 && config.head_dim > 0;
  subject.has_weights_shape = subject.has_cache_shape && config.hidden_size > 0 &&
                              config.ffn_size > 0 && config.num_heads > 0 && config.vocab_size > 0;
  if (subject.has_cache_shape) NIBBLE_RETURN_IF_ERROR(CheckWidths(config));
  if (!flags.parameters.empty()) {
    const absl::StatusOr<int64_t> count = ParseCount(flags.parameters);
    if (!count.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--parameters: ", count.status().message()));
    }
    subject.num_parameters = *count;
    subject.has_weights_shape = false;  // the number is what counts
  } else if (subject.has_weights_shape) {
    subject.num_parameters = NumParameters(config);
  }
  if (subject.num_parameters == 0 && !subject.has_cache_shape) return NothingToPlan();
  return subject;
}

absl::Status AddWeights(const PlanFlags& flags, PlanReport& report) {
  const PlanSubject& subject = report.subject;
  for (absl::string_view name : absl::StrSplit(flags.formats, ',', absl::SkipEmpty())) {
    const absl::StatusOr<WeightFormat> format = ParseWeightFormat(name);
    if (!format.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--formats: ", format.status().message()));
    }
    if (subject.has_weights_shape) {
      report.weights.push_back({format->name, PlanWeights(subject.config, *format)});
    } else if (subject.num_parameters > 0) {
      report.weights.push_back({format->name, PlanWeights(subject.num_parameters, *format)});
    }
  }
  if (!subject.file_report.has_value() || subject.file_report->weights_bytes == 0) {
    return absl::OkStatus();
  }
  const InspectReport& file = *subject.file_report;
  WeightsPlan plan;
  plan.bits_per_weight = file.bits_per_weight;
  plan.file_bytes = file.weights_bytes;
  plan.loaded_bytes = file.loaded_bytes;
  report.weights.insert(report.weights.begin(), {"as it is", plan});
  return absl::OkStatus();
}

std::string Bytes(int64_t bytes) {
  const double gib = static_cast<double>(bytes) / kGiB;
  if (gib >= 0.1) {
    return absl::StrFormat("%.1f GiB (%.1f GB)", gib, static_cast<double>(bytes) / kGB);
  }
  const double kib = static_cast<double>(bytes) / kKiB;
  return kib < 1024 ? absl::StrFormat("%.4g KiB", kib) : absl::StrFormat("%.4g MiB", kib / 1024);
}

std::string GB(int64_t bytes) {
  return absl::StrFormat("%.2f GB", static_cast<double>(bytes) / kGB);
}

void PrintShape(const PlanReport& report, std::ostream& out) {
  const ModelConfig& config = report.subject.config;
  if (!report.subject.name.empty()) out << "model        " << report.subject.name << "\n";
  if (report.subject.has_cache_shape) {
    out << absl::StreamFormat(
        "shape        %d layers, hidden %d, ffn %d, %d heads, %d kv heads of "
        "%d, vocabulary %d%s\n",
        config.num_layers, config.hidden_size, config.ffn_size, config.num_heads,
        config.num_kv_heads, config.head_dim, config.vocab_size,
        config.tied_head ? ", tied head" : "");
  }
  if (report.subject.num_parameters > 0) {
    out << "parameters   " << report.subject.num_parameters << "\n";
  }
}

void PrintWeightsTable(const PlanReport& report, std::ostream& out) {
  if (report.weights.empty()) return;
  out << absl::StreamFormat("\n%-18s %12s %14s %14s\n", "weights", "bits/weight", "in a file",
                            "loaded here");
  for (const PlanReport::Weights& weights : report.weights) {
    if (!weights.plan.ok()) {
      out << absl::StreamFormat("%-18s not for this shape: %s\n", weights.format,
                                weights.plan.status().message());
      continue;
    }
    out << absl::StreamFormat("%-18s %12.3f %14s %14s\n", weights.format,
                              weights.plan->bits_per_weight, GB(weights.plan->file_bytes),
                              GB(weights.plan->loaded_bytes));
  }
}

void PrintCacheTable(const PlanReport& report, std::ostream& out) {
  if (report.caches.empty()) return;
  const int32_t n = report.sequences;
  out << absl::StreamFormat(
      "\n%-9s %16s %12s %12s   %s\n", "kv cache", "a layer, token", "a token",
      absl::StrCat("block of ", report.block_size),
      absl::StrCat(report.context, " tokens",
                   n > 1 ? absl::StrCat(", and ", n, " sequences of them") : ""));
  for (const PlanReport::Cache& cache : report.caches) {
    out << absl::StreamFormat("%-9s %16s %12s %12s   %s in %d blocks", cache.type,
                              Bytes(cache.plan.layer_token_bytes), Bytes(cache.plan.token_bytes),
                              Bytes(cache.plan.block_bytes), Bytes(cache.plan.sequence_bytes),
                              cache.plan.blocks_per_sequence);
    if (n > 1) out << ", " << Bytes(cache.total_bytes);
    out << "\n";
  }
}

void PrintFit(const PlanReport& report, std::ostream& out) {
  if (report.memory_bytes == 0 || report.caches.empty()) return;
  out << absl::StreamFormat("\nsequences of %d tokens that fit %s beside the loaded weights\n",
                            report.context, Bytes(report.memory_bytes));
  out << absl::StreamFormat("%-18s", "weights");
  for (const PlanReport::Cache& cache : report.caches)
    out << absl::StreamFormat(" %9s", cache.type);
  out << "\n";
  for (const PlanReport::Weights& weights : report.weights) {
    if (!weights.plan.ok()) continue;
    out << absl::StreamFormat("%-18s", weights.format);
    for (const PlanReport::Cache& cache : report.caches) {
      const FitPlan fit = PlanFit(report.memory_bytes, weights.plan->loaded_bytes, cache.plan);
      out << absl::StreamFormat(
          " %9s", fit.cache_bytes < 0 ? std::string("-") : absl::StrCat(fit.sequences));
    }
    out << "\n";
  }
}

}  // namespace

void AddPlanFlags(Flags& flags, PlanFlags& plan) {
  flags.Add("--plan", plan.plan,
            "Memory arithmetic instead: weights by format, KV cache by type, sequences that fit");
  flags.Add("--parameters", plan.parameters, "Plan: weights in all, where the shape is unknown")
      ->type_name("N[m|b|t]");
  const auto size = [&](const char* name, int32_t& value, int64_t most, const char* help) {
    flags.Add(name, value, help)->check(CLI::Range(int64_t{0}, most));
  };
  size("--layers", plan.layers, kMaxLayers, "Plan: layers; flags win over the model's own shape");
  size("--hidden", plan.hidden, kMaxWidth, "Plan: width between layers");
  size("--ffn", plan.ffn, kMaxWidth, "Plan: width of the feed-forward");
  size("--heads", plan.heads, kMaxHeads, "Plan: query heads");
  size("--kv-heads", plan.kv_heads, kMaxHeads, "Plan: heads of k and v; 0: as --heads");
  size("--head-dim", plan.head_dim, kMaxHeadDim, "Plan: of one head; 0: hidden / heads");
  size("--vocab", plan.vocab, kMaxVocab, "Plan: words of the vocabulary");
  flags.Add("--tied-head", plan.tied_head, "Plan: the embedding is the output matrix too");
  flags.Add("--formats", plan.formats, "Plan: of weights, separated by commas")
      ->type_name("NAME,..");
  flags.Add("--memory", plan.memory, "Plan: what the device has, to count the sequences that fit")
      ->type_name("BYTES");
  flags.Add("--context", plan.context, "Plan: tokens of a sequence")
      ->check(CLI::Range(int64_t{1}, kMaxContext));
  flags.Add("--sequences", plan.sequences, "Plan: sequences to total the cache for")
      ->check(CLI::Range(1, 1 << 20));
  flags.AddChoice<int32_t>(
      "--block-size", plan.block_size,
      {{"8", 8}, {"16", 16}, {"32", 32}, {"64", 64}, {"128", 128}, {"256", 256}},
      "Plan: tokens in one block of the cache");
}

absl::StatusOr<PlanReport> MakePlan(const std::string& model, const PlanFlags& flags) {
  PlanReport report;
  report.context = flags.context;
  report.sequences = flags.sequences;
  report.block_size = flags.block_size;
  if (!flags.memory.empty()) {
    const absl::StatusOr<int64_t> memory = ParseBytes(flags.memory);
    if (!memory.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--memory: ", memory.status().message()));
    }
    report.memory_bytes = *memory;
  }
  NIBBLE_ASSIGN_OR_RETURN(report.subject, ReadSubject(model, flags));
  NIBBLE_RETURN_IF_ERROR(AddWeights(flags, report));
  if (!report.subject.has_cache_shape) return report;
  for (const auto& [name, type] : KvCacheTypes()) {
    PlanReport::Cache cache;
    cache.type = name;
    cache.plan = PlanKvCache(report.subject.config, type, flags.block_size, flags.context);
    if (__builtin_mul_overflow(cache.plan.sequence_bytes, report.sequences, &cache.total_bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--sequences: found ", flags.sequences, ", each with ",
                       cache.plan.sequence_bytes, " bytes of ", name, " cache for --context ",
                       flags.context, ", needed less than 2^63 in all"));
    }
    report.caches.push_back(std::move(cache));
  }
  return report;
}

Json PlanJson(const PlanReport& report) {
  const ModelConfig& config = report.subject.config;
  Json json = {{"model", report.subject.name},
               {"parameters", report.subject.num_parameters},
               {"shape",
                {{"layers", config.num_layers},
                 {"hidden_size", config.hidden_size},
                 {"ffn_size", config.ffn_size},
                 {"heads", config.num_heads},
                 {"kv_heads", config.num_kv_heads},
                 {"head_dim", config.head_dim},
                 {"vocab_size", config.vocab_size},
                 {"tied_head", config.tied_head}}},
               {"context", report.context},
               {"sequences", report.sequences},
               {"block_size", report.block_size},
               {"memory_bytes", report.memory_bytes},
               {"weights", Json::array()},
               {"kv_cache", Json::array()},
               {"fit", Json::array()}};
  for (const PlanReport::Weights& weights : report.weights) {
    Json row = {{"format", weights.format}};
    if (weights.plan.ok()) {
      row["bits_per_weight"] = weights.plan->bits_per_weight;
      row["file_bytes"] = weights.plan->file_bytes;
      row["loaded_bytes"] = weights.plan->loaded_bytes;
    } else {
      row["error"] = std::string(weights.plan.status().message());
    }
    json["weights"].push_back(std::move(row));
  }
  for (const PlanReport::Cache& cache : report.caches) {
    json["kv_cache"].push_back({{"type", cache.type},
                                {"layer_token_bytes", cache.plan.layer_token_bytes},
                                {"token_bytes", cache.plan.token_bytes},
                                {"block_bytes", cache.plan.block_bytes},
                                {"blocks_per_sequence", cache.plan.blocks_per_sequence},
                                {"sequence_bytes", cache.plan.sequence_bytes},
                                {"total_bytes", cache.total_bytes}});
    if (report.memory_bytes == 0) continue;
    for (const PlanReport::Weights& weights : report.weights) {
      if (!weights.plan.ok()) continue;
      const FitPlan fit = PlanFit(report.memory_bytes, weights.plan->loaded_bytes, cache.plan);
      json["fit"].push_back({{"format", weights.format},
                             {"kv_cache_type", cache.type},
                             {"cache_bytes", fit.cache_bytes},
                             {"num_blocks", fit.num_blocks},
                             {"sequences", fit.sequences}});
    }
  }
  return json;
}

void PrintPlanText(const PlanReport& report, std::ostream& out) {
  PrintShape(report, out);
  PrintWeightsTable(report, out);
  PrintCacheTable(report, out);
  PrintFit(report, out);
  out.flush();
}

int RunPlan(const std::string& model, const PlanFlags& flags, OutputFormat output, const Io& io) {
  const absl::StatusOr<PlanReport> report = MakePlan(model, flags);
  if (!report.ok()) {
    return absl::IsInvalidArgument(report.status()) ? WrongUsage(io, report.status())
                                                    : Fail(io, report.status());
  }
  if (output == OutputFormat::kJson) {
    PrintJson(io.out, PlanJson(*report), 2);
  } else {
    PrintPlanText(*report, io.out);
  }
  return kExitOk;
}

}  // namespace nibble
