#include "engine/quantize/folder/packing_parts.h"

#include "absl/strings/str_cat.h"
#include "engine/quantize/folder/matrix_packing.h"
#include "engine/quantize/methods/scheme.h"
#include "kernels/check.h"
#include "kernels/half.h"

namespace nibble::quantize {

UnsignedCodes ToUnsigned(const QuantizedWeight& weight) {
  NIBBLE_CHECK(IsIntegerGrid(weight.scheme) && weight.scheme.bits <= 8);
  const int32_t half = 1 << (weight.scheme.bits - 1);
  const bool asymmetric = weight.scheme.grid == GridKind::kAsymmetric;
  UnsignedCodes out;
  out.groups = static_cast<int32_t>(weight.RowParams(0).size());
  out.codes.reserve(weight.codes.size());
  for (int32_t n = 0; n < weight.rows; ++n) {
    const absl::Span<const GroupParams> params = weight.RowParams(n);
    for (const GroupParams& group : params) {
      out.scales.push_back(group.scale);
      const bool as_is = asymmetric && group.scale != 0;
      out.zeros.push_back(static_cast<uint8_t>(as_is ? group.zero : half));
    }
    const int16_t* code = weight.codes.data() + static_cast<size_t>(n) * weight.cols;
    for (int32_t k = 0; k < weight.cols; ++k) {
      const int32_t value = asymmetric ? code[k] : code[k] + half;
      const bool zero = params[weight.GroupOf(k)].scale == 0;
      out.codes.push_back(static_cast<uint8_t>(zero ? half : value));
    }
  }
  return out;
}

absl::StatusOr<std::vector<uint16_t>> ScalesInF16(const UnsignedCodes& codes,
                                                  absl::string_view layout) {
  std::vector<uint16_t> out;
  out.reserve(codes.scales.size());
  for (size_t i = 0; i < codes.scales.size(); ++i) {
    out.push_back(F32ToF16(codes.scales[i]));
    if (F16ToF32(out.back()) == codes.scales[i]) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("scale ", codes.scales[i], " of row ", i / codes.groups, ", group ",
                     i % codes.groups, " is no f16, and the layout ", layout, " keeps f16 scales"));
  }
  return out;
}

void PackBits(uint32_t value, uint32_t* words, int64_t stride, int64_t index, int bits) {
  const int64_t at = index * bits;
  const int shift = static_cast<int>(at % 32);
  words[at / 32 * stride] |= value << shift;
  if (shift + bits > 32) words[(at / 32 + 1) * stride] |= value >> (32 - shift);
}

std::vector<int32_t> GroupIndex(const QuantizedWeight& weight) {
  std::vector<int32_t> index(static_cast<size_t>(weight.cols));
  for (int32_t k = 0; k < weight.cols; ++k) index[static_cast<size_t>(k)] = weight.GroupOf(k);
  return index;
}

bool IsIntegerGrid(const Scheme& scheme) {
  return scheme.grid == GridKind::kSymmetric || scheme.grid == GridKind::kFullRange ||
         scheme.grid == GridKind::kAsymmetric;
}

bool ByGroupOrRow(const Scheme& scheme) {
  return scheme.granularity == Granularity::kGroup || scheme.granularity == Granularity::kChannel;
}

int32_t GroupSize(const Scheme& scheme) {
  return scheme.granularity == Granularity::kGroup ? scheme.group : -1;
}

absl::Status NotHeld(const Method& method, absl::string_view layout, absl::string_view holds) {
  return absl::InvalidArgumentError(absl::StrCat(
      "method '", method.name, "' makes ", SchemeName(method.scheme), ", the layout ", layout,
      " holds ", holds, "; the usual layout for it is ", LayoutName(UsualLayout(method))));
}

}  // namespace nibble::quantize
