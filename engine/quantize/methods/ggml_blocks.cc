#include "engine/quantize/methods/ggml_blocks.h"

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
void PutNibbles(const int16_t* codes, int shift, std::vector<uint8_t>& out) {
  for (int i = 0; i < kBlock / 2; ++i) {
    const int low = codes[i] + shift, high = codes[i + kBlock / 2] + shift;
    out.push_back(static_cast<uint8_t>(low | high << 4));
  }
}

}  // namespace

std::optional<GgmlType> GgmlTypeOf(const Scheme& scheme) {
  if (scheme.granularity != Granularity::kGroup || scheme.group != kBlock) return std::nullopt;
  const bool symmetric = scheme.grid == GridKind::kSymmetric || scheme.grid == GridKind::kFullRange;
  if (symmetric && scheme.bits == 4) return GgmlType::kQ4_0;
  if (symmetric && scheme.bits == 8) return GgmlType::kQ8_0;
  if (scheme.grid == GridKind::kAsymmetric && scheme.bits == 4) return GgmlType::kQ4_1;
  return std::nullopt;
}

std::vector<uint8_t> ToGgmlBlocks(const QuantizedWeight& weight) {
  const std::optional<GgmlType> type = GgmlTypeOf(weight.scheme);
  NIBBLE_CHECK(type.has_value() && weight.group_of_column.empty());
  std::vector<uint8_t> blocks;
  for (size_t i = 0; i < weight.params.size(); ++i) {
    const GroupParams& params = weight.params[i];
    const int16_t* codes = &weight.codes[i * kBlock];
    PutHalf(params.scale, blocks);
    if (*type == GgmlType::kQ8_0) {
      for (int k = 0; k < kBlock; ++k) {
        blocks.push_back(static_cast<uint8_t>(static_cast<int8_t>(codes[k])));
      }
    } else if (*type == GgmlType::kQ4_0) {
      constexpr int kZero = 8;  // of the code that stands for 0
      PutNibbles(codes, kZero, blocks);
    } else {
      PutHalf(params.scale * static_cast<float>(-params.zero), blocks);
      PutNibbles(codes, 0, blocks);
    }
  }
  return blocks;
}

}  // namespace nibble::quantize
