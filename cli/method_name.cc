#include "cli/method_name.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr absl::string_view kWords[] = {"rtn",      "gptq", "gptq-clip",  "awq",
                                        "awq-clip", "clip", "smoothquant"};
constexpr absl::string_view kTraining =
    "qat";  // a word, too, so that it is refused with its scheme

// What stands between "gptq-" and the rest of a name.
absl::StatusOr<std::string> OrderPart(const std::string& order) {
  if (order.empty() || order == "static-groups") return std::string("actorder-");
  if (order == "act-order") return std::string("gidx-");
  if (order == "sequential") return std::string();
  return absl::InvalidArgumentError(absl::StrCat(
      "--order: found \"", order, "\", needed sequential, static-groups or act-order"));
}

absl::StatusOr<std::string> NameOf(const std::string& word, const std::string& scheme,
                                   const std::string& order) {
  const bool is_gptq = word == "gptq" || word == "gptq-clip";
  if (!order.empty() && !is_gptq) {
    return absl::InvalidArgumentError(
        absl::StrCat("--order ", order, ": is GPTQ's, --method ", word, " has none"));
  }
  if (word == "smoothquant") {
    if (scheme.empty()) return word;
    return absl::InvalidArgumentError(
        absl::StrCat("--scheme ", scheme,
                     ": --method smoothquant has int8-sym-channel; leave it out, or take --method "
                     "rtn, gptq, awq or clip"));
  }
  const std::string codes = scheme.empty() ? kDefaultScheme : scheme;
  if (!is_gptq) return absl::StrCat(word, "-", codes);
  NIBBLE_ASSIGN_OR_RETURN(const std::string part, OrderPart(order));
  return absl::StrCat("gptq-", part, word == "gptq-clip" ? "clip-" : "", codes);
}

// Training is of the whole model at once: it is measured, and no sink is fed by it.
absl::Status RefuseTraining(const quantize::Method& method) {
  const std::string scheme = quantize::SchemeName(method.scheme);
  return absl::InvalidArgumentError(absl::StrCat(
      "--method ", method.name,
      ": quantization-aware training is measured, not written: nibble eval table --model MODEL "
      "--text TEXT --calibration TEXT --methods rtn-",
      scheme, ",qat-", scheme, " --qat-steps 200 tells what it recovers; files are written by ",
      absl::StrJoin(kWords, ", ")));
}

}  // namespace

absl::StatusOr<quantize::Method> ParseMethodFlags(const std::string& method,
                                                  const std::string& scheme,
                                                  const std::string& order) {
  const bool is_word = method == kTraining ||
                       std::find(std::begin(kWords), std::end(kWords), method) != std::end(kWords);
  std::string name = method;
  if (is_word) {
    NIBBLE_ASSIGN_OR_RETURN(name, NameOf(method, scheme, order));
  }
  absl::StatusOr<quantize::Method> parsed = quantize::ParseMethod(name);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        is_word ? "--method, --scheme: " : "--method: ", parsed.status().message(),
        is_word ? "" : absl::StrCat("; or one word of ", absl::StrJoin(kWords, ", "))));
  }
  if (!is_word && !(scheme.empty() && order.empty())) {
    return absl::InvalidArgumentError(absl::StrCat(scheme.empty() ? "--order " : "--scheme ",
                                                   scheme.empty() ? order : scheme, ": --method ",
                                                   method, " says it already; leave one out"));
  }
  if (parsed->algorithm == quantize::Algorithm::kTrain) return RefuseTraining(*parsed);
  return parsed;
}

}  // namespace nibble
