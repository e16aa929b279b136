// What `nibble eval table` prints, and its manual.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/eval_table.h"

namespace nibble {
namespace {

std::string Mebibytes(int64_t bytes) {
  return bytes > 0 ? absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 20)) : "-";
}

}  // namespace

std::string TableFooter() {
  return absl::StrCat(kTextProtocol, R"(
  Every method quantizes the seven matrices of each layer, whose bits are counted (with "+head", embedding and output too) and runs the same
  windows as the model itself: KL(model || quantized) in nats a token with one standard error, perplexity of the
  quantized, its change, and how often both find the same token likeliest. f32 activations, but for w8a8, smoothquant
  and llm-int8. --calibration is cut into windows the same way. tokens/s: greedy decode of one sequence on the fast
  path (int8 activations), where there is a kernel for what the method makes.

Methods, names separated by commas
  rtn-SCHEME                                    round to nearest
  gptq-SCHEME gptq-actorder-.. gptq-gidx-..     GPTQ: columns as stored, by activation with static groups, with g_idx
  gptq-clip-.. gptq-actorder-clip-..            GPTQ within learned ranges
  awq-SCHEME awq-clip-SCHEME                    AWQ, with its clip search
  clip-SCHEME                                   learned clipping (OmniQuant's)
  qat-SCHEME                                    quantization-aware training, for small models
  incoherent-rtn-.. incoherent-gptq-.. -clip-.. after a randomized Hadamard rotation
  w8a8[-static-RULE] smoothquant[-static-RULE]  int8 activations; RULE: min-max percentile mse entropy
  llm-int8                                      outlier columns in f16
  ggml-TYPE                                     as `nibble quantize --type TYPE` does, the embedding and the head too
Schemes
  int2..int8, -sym (+-(2^(n-1) - 1)), -full (-2^(n-1) too) or -asym (zero point), -tensor, -channel or -gN
  nf4-bN[-dq] fp4-bN[-dq]  e4m3- or e5m2-tensor, -channel, -block;  -mse after any: range of least squared error

JSON
  {"window","first_scored","stride","tokens","calibration_windows","seed","qat":{"steps","batch","learning_rate"},
  "rows":[{"method","bits_per_weight","bytes",
  "perplexity","change_percent","kl":{"mean","standard_error"},"top1_percent","decode_tokens_per_second",
  "quantize_seconds","peak_bytes"},..]}

Example
  nibble eval table --model f16.gguf --text eval.txt --calibration calib.txt --methods rtn-nf4-b64,gptq-int4-full-g128
)");
}

std::string TableMarkdown(const std::vector<TableRow>& rows, const WindowOptions& windows) {
  std::string text = absl::StrFormat(
      "%d tokens: %s\n\n"
      "| method | bits / weight | MiB | perplexity | change, %% | KL, nats | same top-1, %% | "
      "tokens/s | quantize, s | peak, MiB |\n|---|---|---|---|---|---|---|---|---|---|\n",
      rows.back().result.tokens, ScoredText(windows, rows.back().result.windows));
  for (const TableRow& row : rows) {
    const DivergenceResult& result = row.result;
    absl::StrAppend(
        &text, absl::StrFormat(
                   "| %s | %.3f | %s | %.4f | %+.2f | %.5f ± %.5f | %.2f | %s | %.1f | %s |\n",
                   row.method, row.bits, Mebibytes(row.bytes), std::exp(result.candidate_nll.mean),
                   100 * std::expm1(result.candidate_nll.mean - result.base_nll.mean),
                   result.kl.mean, result.kl.standard_error, 100 * result.agreement.mean,
                   row.decode_rate ? absl::StrFormat("%.0f", *row.decode_rate) : "-",
                   row.quantize_seconds, Mebibytes(row.peak_bytes)));
  }
  return text;
}

nlohmann::ordered_json TableJson(const std::vector<TableRow>& rows, const WindowOptions& windows,
                                 const TableFlags& flags) {
  nlohmann::ordered_json json = {{"model", flags.model.model},
                                 {"text", flags.text.path},
                                 {"window", windows.window},
                                 {"first_scored", windows.skip},
                                 {"stride", windows.Stride()},
                                 {"tokens", rows.back().result.tokens},
                                 {"calibration", flags.calibration},
                                 {"calibration_windows", flags.calibration_windows},
                                 {"seed", flags.seed},
                                 {"qat",
                                  {{"steps", flags.training.steps},
                                   {"batch", flags.training.batch},
                                   {"learning_rate", flags.training.learning_rate}}},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const TableRow& row : rows) {
    const DivergenceResult& result = row.result;
    json["rows"].push_back(
        {{"method", row.method},
         {"bits_per_weight", row.bits},
         {"bytes", row.bytes},
         {"perplexity", std::exp(result.candidate_nll.mean)},
         {"change_percent", 100 * std::expm1(result.candidate_nll.mean - result.base_nll.mean)},
         {"kl", {{"mean", result.kl.mean}, {"standard_error", result.kl.standard_error}}},
         {"top1_percent", 100 * result.agreement.mean},
         {"decode_tokens_per_second",
          row.decode_rate ? nlohmann::ordered_json(*row.decode_rate) : nlohmann::ordered_json()},
         {"quantize_seconds", row.quantize_seconds},
         {"peak_bytes", row.peak_bytes}});
  }
  return json;
}

}  // namespace nibble
