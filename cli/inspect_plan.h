// `nibble inspect --plan`: the memory arithmetic of engine/memory_plan.h for a model file, the
// shape of a known model, a shape given by flags, or no more than a number of parameters.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/output.h"
#include "engine/inspect.h"
#include "engine/memory_plan.h"

namespace nibble {

struct PlanFlags {
  bool plan = false;
  std::string parameters;  // "70b"; empty: counted from the shape
  int32_t layers = 0, hidden = 0, ffn = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  bool tied_head = false;
  std::string formats =
      "4-bit,8-bit,16-bit,q2_k,q3_k,q4_k,q5_k,q6_k,q8_0,bf16,f16,int4-asym-g128,nf4-b64-dq,"
      "int8-sym-channel,e4m3-channel";
  std::string memory;  // "80GB"; empty: nothing is fitted
  int32_t context = 4096;
  int32_t sequences = 1;
  int32_t block_size = 16;
};

// --plan and all that goes with it.
void AddPlanFlags(Flags& flags, PlanFlags& plan);

// What is known of the model: a number of parameters, a shape, or both. `file_report` where a file
// (or "random:SHAPE:FORMAT") is what it is.
struct PlanSubject {
  std::string name;
  ModelConfig config;  // 0 for what is not given
  int64_t num_parameters = 0;
  bool has_weights_shape = false;  // all of the shape is there
  bool has_cache_shape = false;    // layers, kv heads and head_dim
  std::optional<InspectReport> file_report;
};

struct PlanReport {
  struct Weights {
    std::string format;
    absl::StatusOr<WeightsPlan> plan;
  };
  struct Cache {
    std::string type;
    KvPlan plan;
    int64_t total_bytes = 0;  // of all sequences
  };
  PlanSubject subject;
  std::vector<Weights> weights;
  std::vector<Cache> caches;
  int64_t memory_bytes = 0;  // 0: not asked
  int32_t context = 0, sequences = 0, block_size = 0;
};

// `model` is the path or name given beside --plan, perhaps empty. INVALID_ARGUMENT names the flag;
// the file's own error when it cannot be read.
absl::StatusOr<PlanReport> MakePlan(const std::string& model, const PlanFlags& flags);

nlohmann::ordered_json PlanJson(const PlanReport& report);
void PrintPlanText(const PlanReport& report, std::ostream& out);

int RunPlan(const std::string& model, const PlanFlags& flags, OutputFormat output, const Io& io);

}  // namespace nibble
