#include "cli/bench_report.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/version.h"
#include "kernels/check.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

Json PeaksJson(const MachinePeaks& peaks) {
  return {{"threads", peaks.num_threads},
          {"bandwidth_gb_per_s", peaks.bandwidth_bytes_per_s / 1e9},
          {"bandwidth_bytes", peaks.bandwidth_bytes},
          {"memory_gb_per_s", peaks.memory_bytes_per_s / 1e9},
          {"memory_bytes", peaks.memory_bytes},
          {"peak_gmac_per_s", peaks.int8_macs_per_s / 1e9},
          {"peak_f32_gmac_per_s", peaks.f32_macs_per_s / 1e9},
          {"peak_attention_gmac_per_s", peaks.attention_macs_per_s / 1e9},
          {"barrier_us", peaks.barriers_per_s > 0 ? 1e6 / peaks.barriers_per_s : 0.0}};
}

Json RooflineJson(const Roofline& roofline, const BenchResult& result) {
  const double tokens = static_cast<double>(result.num_tokens());
  return {{"bytes", static_cast<int64_t>(roofline.bytes_per_token * tokens + 0.5)},
          {"macs", static_cast<int64_t>(roofline.macs_per_token * tokens + 0.5)},
          {"bytes_per_token", roofline.bytes_per_token},
          {"macs_per_token", roofline.macs_per_token},
          {"gb_per_s", roofline.gb_per_s},
          {"gmac_per_s", roofline.gmac_per_s},
          {"bandwidth_share", roofline.bandwidth_share},
          {"peak_share", roofline.peak_share}};
}

void PrintPeaks(const Json& machine, std::ostream& out) {
  for (const Json& peaks : machine["peaks"]) {
    out << absl::StreamFormat(
        "limits, %d threads: %.1f GB/s over %d MiB, %.1f over %d MiB; %.0f int8 GMAC/s, %.0f f32, "
        "%.0f for attention; a barrier %.2f us\n",
        peaks["threads"].get<int>(), peaks["bandwidth_gb_per_s"].get<double>(),
        peaks["bandwidth_bytes"].get<int64_t>() >> 20, peaks["memory_gb_per_s"].get<double>(),
        peaks["memory_bytes"].get<int64_t>() >> 20, peaks["peak_gmac_per_s"].get<double>(),
        peaks["peak_f32_gmac_per_s"].get<double>(),
        peaks["peak_attention_gmac_per_s"].get<double>(), peaks["barrier_us"].get<double>());
  }
}

}  // namespace

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "model name")) continue;
    const size_t colon = rest.find(':');
    if (colon != absl::string_view::npos) {
      return std::string(absl::StripAsciiWhitespace(rest.substr(colon + 1)));
    }
  }
  return "unknown";
}

Json BenchMachineJson(const DeviceInfo& device, const std::vector<MachinePeaks>& peaks) {
  Json machine = {{"cpu", CpuName()},
                  {"isa", device.isa},
                  {"threads", device.num_threads},
                  {"numa_nodes", device.num_numa_nodes},
                  {"version", kVersion},
                  {"why", device.why}};
  if (peaks.empty()) return machine;
  machine.update(PeaksJson(peaks.front()));
  machine["peaks"] = Json::array();
  for (const MachinePeaks& of_threads : peaks) machine["peaks"].push_back(PeaksJson(of_threads));
  return machine;
}

double Median(std::vector<double> values) {
  NIBBLE_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Json RangeJson(const std::vector<double>& values) {
  const double median = Median(values);
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {{"median", median}, {"min", *low}, {"max", *high}};
}

Json BenchJson(const Json& machine, const Json& model, const std::vector<BenchResult>& results) {
  Json json = {{"machine", machine}, {"model", model}, {"results", Json::array()}};
  for (const BenchResult& result : results) {
    Json row = {{"test", result.test},
                {"prompt_tokens", result.prompt_tokens},
                {"generate_tokens", result.generate_tokens},
                {"context", result.context},
                {"batch", result.batch},
                {"threads", result.threads},
                {"kv_cache_type", result.kv_cache_type},
                {"tokens_per_second", RangeJson(result.tokens_per_second)}};
    if (result.roofline.has_value()) row["roofline"] = RooflineJson(*result.roofline, result);
    json["results"].push_back(std::move(row));
  }
  return json;
}

void PrintBenchTable(const Json& machine, const std::vector<BenchResult>& results,
                     std::ostream& out) {
  out << absl::StreamFormat("%s, %s, nibble %s\n", machine["cpu"].get<std::string>(),
                            machine["isa"].get<std::string>(),
                            machine["version"].get<std::string>());
  const bool roofline = machine.contains("peaks");
  if (roofline) PrintPeaks(machine, out);
  out << absl::StreamFormat("%-8s %7s %8s %6s %8s %5s %10s %10s %10s", "test", "prompt", "context",
                            "batch", "threads", "kv", "tokens/s", "min", "max");
  if (roofline) out << absl::StreamFormat(" %8s %6s %8s %6s", "GB/s", "of bw", "GMAC/s", "of pk");
  out << "\n";
  for (const BenchResult& result : results) {
    const auto [low, high] =
        std::minmax_element(result.tokens_per_second.begin(), result.tokens_per_second.end());
    out << absl::StreamFormat("%-8s %7d %8d %6d %8d %5s %10.1f %10.1f %10.1f", result.test,
                              result.prompt_tokens, result.context, result.batch, result.threads,
                              result.kv_cache_type, result.MedianRate(), *low, *high);
    if (result.roofline.has_value()) {
      out << absl::StreamFormat(" %8.2f %5.0f%% %8.1f %5.0f%%", result.roofline->gb_per_s,
                                100 * result.roofline->bandwidth_share, result.roofline->gmac_per_s,
                                100 * result.roofline->peak_share);
    }
    out << "\n";
  }
  out.flush();
}

}  // namespace nibble
