#include "engine/quantize/folder/matrix_packing.h"

#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/folder/packing_parts.h"

namespace nibble::quantize {
namespace {

// In the order of HfLayout.
constexpr absl::string_view kNames[] = {
    "plain", "gptq", "gptq-v2", "awq", "compressed-tensors", "bitsandbytes", "fp8"};

absl::Status CheckMethod(HfLayout layout, const Method& method) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("method '", method.name, "': the layout ",
                                                   LayoutName(layout), " does not hold ", why));
  };
  if (layout == HfLayout::kPlain) return absl::OkStatus();
  const Scheme& scheme = method.scheme;
  if (IsIntegerGrid(scheme) && scheme.granularity == Granularity::kGroup &&
      scheme.group % 16 != 0) {
    return refuse("groups that are no multiple of 16 columns");
  }
  if (method.incoherent) return refuse("codes of rotated matrices; take the layout plain");
  if (method.head) return refuse("a quantized embedding; leave '+head' out");
  if (method.static_range.has_value()) return refuse("static ranges of activations");
  const bool int8 = method.activations == Activations::kInt8;
  if (int8 && layout != HfLayout::kCompressedTensors) {
    return refuse("int8 activations; take compressed-tensors");
  }
  const bool outliers = method.activations == Activations::kOutliersApart;
  if (outliers && layout != HfLayout::kBitsAndBytes) {
    return refuse("outliers of activations; take bitsandbytes");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfLayout> ParseHfLayout(absl::string_view name) {
  std::string known;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<HfLayout>(i);
    absl::StrAppend(&known, known.empty() ? "" : ", ", kNames[i]);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("layout '", name, "' is not known; there is ", known));
}

absl::string_view LayoutName(HfLayout layout) { return kNames[static_cast<size_t>(layout)]; }

HfLayout UsualLayout(const Method& method) {
  const Scheme& scheme = method.scheme;
  if (method.incoherent) return HfLayout::kPlain;
  if (method.activations == Activations::kOutliersApart || scheme.grid == GridKind::kNf4 ||
      scheme.grid == GridKind::kFp4) {
    return HfLayout::kBitsAndBytes;
  }
  if (method.activations == Activations::kInt8) return HfLayout::kCompressedTensors;
  if (!IsIntegerGrid(scheme)) {
    const bool block = scheme.granularity == Granularity::kBlock;
    return block || scheme.grid == GridKind::kE5m2 ? HfLayout::kFp8 : HfLayout::kCompressedTensors;
  }
  if (method.algorithm == Algorithm::kAwq && scheme.bits == 4) return HfLayout::kAwq;
  if (method.algorithm == Algorithm::kGptq || scheme.bits == 3) {
    return scheme.grid == GridKind::kAsymmetric ? HfLayout::kGptqV2 : HfLayout::kGptq;
  }
  return HfLayout::kCompressedTensors;
}

absl::StatusOr<std::unique_ptr<MatrixPacking>> MakePacking(HfLayout layout, const Method& method) {
  NIBBLE_RETURN_IF_ERROR(CheckMethod(layout, method));
  switch (layout) {
    case HfLayout::kPlain:
      break;
    case HfLayout::kGptq:
      return MakeGptqPacking(method, /*v2=*/false);
    case HfLayout::kGptqV2:
      return MakeGptqPacking(method, /*v2=*/true);
    case HfLayout::kAwq:
      return MakeAwqPacking(method);
    case HfLayout::kCompressedTensors:
      return MakeCompressedPacking(method);
    case HfLayout::kBitsAndBytes:
      return MakeBnbPacking(method);
    case HfLayout::kFp8:
      return MakeFp8Packing(method);
  }
  return std::unique_ptr<MatrixPacking>();
}

absl::StatusOr<Method> InLayout(HfLayout layout, const Method& method) {
  NIBBLE_RETURN_IF_ERROR(MakePacking(layout, method).status());
  Method out = method;
  const bool packed = layout == HfLayout::kGptq || layout == HfLayout::kGptqV2 ||
                      layout == HfLayout::kAwq || layout == HfLayout::kCompressedTensors;
  if (packed && IsIntegerGrid(method.scheme) && ByGroupOrRow(method.scheme) &&
      method.activations == Activations::kF32) {
    out.scheme.f16_scales = true;
  }
  return out;
}

}  // namespace nibble::quantize
