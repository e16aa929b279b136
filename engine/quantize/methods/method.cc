#include "engine/quantize/methods/method.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace nibble::quantize {
namespace {

absl::Status Unknown(absl::string_view name) {
  return absl::InvalidArgumentError(
      absl::StrCat("method '", name,
                   "' is not known; there is rtn-, gptq-[actorder-|gidx-|clip-], awq-[clip-], "
                   "clip- and qat-SCHEME, "
                   "incoherent- before rtn, gptq or clip, w8a8, smoothquant, llm-int8"));
}

// w8a8 and smoothquant, with "-static-RULE" or without.
absl::StatusOr<Method> ParseInt8(absl::string_view name, absl::string_view rest, Method method) {
  NIBBLE_ASSIGN_OR_RETURN(method.scheme, ParseScheme("int8-sym-channel"));
  method.activations = Activations::kInt8;
  if (absl::ConsumePrefix(&rest, "-static-")) {
    NIBBLE_ASSIGN_OR_RETURN(method.static_range, ParseRangeRule(rest));
  } else if (!rest.empty()) {
    return Unknown(name);
  }
  return method;
}

// The word before the scheme, and its options.
absl::Status ParseAlgorithm(absl::string_view name, absl::string_view& rest, Method& method) {
  if (absl::ConsumePrefix(&rest, "rtn-")) {
    method.algorithm = Algorithm::kRound;
  } else if (absl::ConsumePrefix(&rest, "clip-")) {
    method.algorithm = Algorithm::kClip;
  } else if (absl::ConsumePrefix(&rest, "qat-")) {
    method.algorithm = Algorithm::kTrain;
  } else if (absl::ConsumePrefix(&rest, "gptq-")) {
    method.algorithm = Algorithm::kGptq;
    if (absl::ConsumePrefix(&rest, "actorder-"))
      method.order = ColumnOrder::kByActivation;
    else if (absl::ConsumePrefix(&rest, "gidx-"))
      method.order = ColumnOrder::kByActivationGIndex;
    method.clip = absl::ConsumePrefix(&rest, "clip-");
  } else if (absl::ConsumePrefix(&rest, "awq-")) {
    method.algorithm = Algorithm::kAwq;
    method.clip = absl::ConsumePrefix(&rest, "clip-");
  } else {
    return Unknown(name);
  }
  return absl::OkStatus();
}

// What the parts allow, that together do not.
absl::Status CheckTogether(absl::string_view name, const Method& method) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("method '", name, "': ", why));
  };
  const bool tensor_wide = method.scheme.granularity == Granularity::kTensor ||
                           method.scheme.granularity == Granularity::kBlock;
  const bool clips = method.algorithm == Algorithm::kClip || method.clip;
  if ((clips || method.algorithm == Algorithm::kGptq) && tensor_wide) {
    return refuse("it needs scales within a row: -channel or groups");
  }
  if (method.algorithm != Algorithm::kRound && method.scheme.double_quantized) {
    return refuse("double quantization is there for rtn");
  }
  if (method.clip && method.order == ColumnOrder::kByActivationGIndex) {
    return refuse("learned ranges are of stored neighbours, gidx has other groups");
  }
  if (method.incoherent && method.algorithm == Algorithm::kTrain) {
    return refuse("training moves the weights as they are, not rotated ones");
  }
  if (method.incoherent && method.algorithm == Algorithm::kAwq) {
    return refuse("a rotation mixes the channels that AWQ scales");
  }
  if (method.head && method.algorithm != Algorithm::kRound) {
    return refuse("+head is there for rtn");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Method> ParseMethod(absl::string_view name) {
  Method method;
  method.name = std::string(name);
  absl::string_view rest = name;
  if (rest == "llm-int8") {
    method.algorithm = Algorithm::kNone;
    NIBBLE_ASSIGN_OR_RETURN(method.scheme, ParseScheme("int8-sym-channel"));
    method.activations = Activations::kOutliersApart;
    return method;
  }
  if (absl::ConsumePrefix(&rest, "w8a8")) {
    method.algorithm = Algorithm::kNone;
    return ParseInt8(name, rest, method);
  }
  if (absl::ConsumePrefix(&rest, "smoothquant")) {
    method.algorithm = Algorithm::kSmoothQuant;
    return ParseInt8(name, rest, method);
  }
  method.incoherent = absl::ConsumePrefix(&rest, "incoherent-");
  NIBBLE_RETURN_IF_ERROR(ParseAlgorithm(name, rest, method));
  method.head = absl::ConsumeSuffix(&rest, "+head");
  NIBBLE_ASSIGN_OR_RETURN(method.scheme, ParseScheme(rest));
  NIBBLE_RETURN_IF_ERROR(CheckTogether(name, method));
  return method;
}

bool NeedsCalibration(const Method& method) {
  return method.static_range.has_value() ||
         (method.algorithm != Algorithm::kRound && method.algorithm != Algorithm::kNone);
}

}  // namespace nibble::quantize
