// What `nibble bench` prints: a table for people, JSON for programs, and how a run compares with an
// earlier one.
#pragma once

#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/bench.h"
#include "kernels/machine.h"

namespace nibble {

// The first line of /proc/cpuinfo that names it; "unknown" where none does.
std::string CpuName();

// {"cpu","isa","threads","version","why"}; with peaks also what was measured, of the first of them,
// and "peaks": [..] of all.
nlohmann::ordered_json BenchMachineJson(const DeviceInfo& device,
                                        const std::vector<MachinePeaks>& peaks);

// The middle one, or the mean of the middle two. REQUIRES at least one.
double Median(std::vector<double> values);
// {"median","min","max"} of them. REQUIRES the same.
nlohmann::ordered_json RangeJson(const std::vector<double>& values);

// {"machine":{..},"model":{..},"results":[..]}
nlohmann::ordered_json BenchJson(const nlohmann::ordered_json& machine,
                                 const nlohmann::ordered_json& model,
                                 const std::vector<BenchResult>& results);

void PrintBenchTable(const nlohmann::ordered_json& machine, const std::vector<BenchResult>& results,
                     std::ostream& out);

// An earlier run's JSON. NOT_FOUND, or INVALID_ARGUMENT naming what is not as BenchJson has it.
absl::StatusOr<nlohmann::ordered_json> ReadBenchJson(const std::string& path);

// The rows of `now` beside those of `then` with the same test, batch, prompt_tokens, context,
// threads and kv_cache_type (runs from before the last two were told have machine.threads, f16):
//   {"rows": [{key.., "now", "then" (medians), "ratio", "ratio_min", "ratio_max"}],
//    "only_now": [{key..}], "only_then": [{key..}], "warnings": ["..."]}
// The range is of the slowest now through the fastest then, and the other way round: where it
// straddles 1 the runs show no difference. Warnings tell of another cpu, instruction set or model.
// REQUIRES: `then` of ReadBenchJson.
nlohmann::ordered_json CompareBench(const nlohmann::ordered_json& now,
                                    const nlohmann::ordered_json& then);
void PrintComparison(const nlohmann::ordered_json& comparison, const std::string& path,
                     std::ostream& out);

}  // namespace nibble
