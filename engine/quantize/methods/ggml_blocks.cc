#include "engine/quantize/methods/ggml_blocks.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"
#include "kernels/half.h"

namespace nibble::quantize {
namespace {

constexpr int kBlock = 32;

void PutHalf(float value, std::vector<uint8_t>& out) {
  const uint16_t bits = F32ToF16(value);
  out.push_back(static_cast<uint8_t>(bits & 0xFF));
  out.push_back(static_cast<uint8_t>(bits >> 8));
}

// Element i in the low nibble of byte i, element i + 16 in its high one.
void PutNibbles(const int (&codes)[kBlock], std::vector<uint8_t>& out) {
  for (int i = 0; i < kBlock / 2; ++i) {
    out.push_back(static_cast<uint8_t>((codes[i] & 0xF) | (codes[i + kBlock / 2] & 0xF) << 4));
  }
}

// The fifth bits, bit i of a little-endian u32 element i's.
void PutFifthBits(const int (&codes)[kBlock], std::vector<uint8_t>& out) {
  uint32_t bits = 0;
  for (int i = 0; i < kBlock; ++i) bits |= static_cast<uint32_t>(codes[i] >> 4 & 1) << i;
  for (int byte = 0; byte < 4; ++byte) out.push_back(static_cast<uint8_t>(bits >> 8 * byte));
}

// What a type adds to symmetric codes so that they begin at 0.
int ShiftOf(GgmlType type) {
  if (type == GgmlType::kQ4_0) return 8;
  return type == GgmlType::kQ5_0 ? 16 : 0;
}

bool HasOffset(GgmlType type) { return type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1; }
float OffsetOf(const GroupParams& params) {
  return params.scale * static_cast<float>(-params.zero);
}

absl::Status CheckOffsets(absl::Span<const GroupParams> params, int32_t row) {
  for (size_t g = 0; g < params.size(); ++g) {
    const float offset = OffsetOf(params[g]);
    if (std::isfinite(F16ToF32(F32ToF16(offset)))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the offset of row ", row, ", group ", g, " is ", offset,
                     ", beyond the f16 that its blocks keep; take a -sym or -full scheme"));
  }
  return absl::OkStatus();
}

void PutBlock(GgmlType type, const int16_t* from, const GroupParams& params,
              std::vector<uint8_t>& out) {
  int codes[kBlock];
  for (int i = 0; i < kBlock; ++i) codes[i] = from[i] + ShiftOf(type);
  PutHalf(params.scale, out);
  if (type == GgmlType::kQ8_0) {
    for (const int code : codes) out.push_back(static_cast<uint8_t>(static_cast<int8_t>(code)));
    return;
  }
  if (HasOffset(type)) PutHalf(OffsetOf(params), out);
  if (type == GgmlType::kQ5_0 || type == GgmlType::kQ5_1) PutFifthBits(codes, out);
  PutNibbles(codes, out);
}

}  // namespace

std::optional<GgmlType> GgmlTypeOf(const Scheme& scheme) {
  if (scheme.granularity == Granularity::kBlock) return std::nullopt;
  if (scheme.granularity == Granularity::kGroup && scheme.group % kBlock != 0) return std::nullopt;
  if (scheme.grid == GridKind::kAsymmetric) {
    if (scheme.bits > 5) return std::nullopt;
    return scheme.bits == 5 ? GgmlType::kQ5_1 : GgmlType::kQ4_1;
  }
  if (scheme.grid != GridKind::kSymmetric && scheme.grid != GridKind::kFullRange) {
    return std::nullopt;
  }
  if (scheme.bits > 5) return GgmlType::kQ8_0;
  return scheme.bits == 5 ? GgmlType::kQ5_0 : GgmlType::kQ4_0;
}

Scheme WithBlockScales(Scheme scheme) {
  scheme.f16_scales = true;
  return scheme;
}

absl::StatusOr<std::vector<uint8_t>> ToGgmlBlocks(const QuantizedWeight& weight) {
  const std::optional<GgmlType> type = GgmlTypeOf(weight.scheme);
  NIBBLE_CHECK(type.has_value() && weight.group_of_column.empty() && weight.cols % kBlock == 0);
  std::vector<uint8_t> blocks;
  for (int32_t n = 0; n < weight.rows; ++n) {
    const absl::Span<const GroupParams> params = weight.RowParams(n);
    if (HasOffset(*type)) NIBBLE_RETURN_IF_ERROR(CheckOffsets(params, n));
    const int16_t* codes = &weight.codes[static_cast<size_t>(n) * weight.cols];
    for (int32_t k = 0; k < weight.cols; k += kBlock) {
      PutBlock(*type, codes + k, params[weight.GroupOf(k)], blocks);
    }
  }
  return blocks;
}

}  // namespace nibble::quantize
