#include "engine/quantize/ggml/encode.h"

#include <algorithm>
#include <cstring>

#include "engine/quantize/ggml/block_encoders.h"
#include "engine/weights/ggml_types.h"
#include "kernels/check.h"
#include "kernels/half.h"

namespace nibble {
namespace {

using BlockEncoder = void (*)(const float* x, const float* w, uint8_t* out);

BlockEncoder EncoderOf(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_0:
      return EncodeQ4_0;
    case GgmlType::kQ4_1:
      return EncodeQ4_1;
    case GgmlType::kQ5_0:
      return EncodeQ5_0;
    case GgmlType::kQ5_1:
      return EncodeQ5_1;
    case GgmlType::kQ8_0:
      return EncodeQ8_0;
    case GgmlType::kQ2_K:
      return EncodeQ2_K;
    case GgmlType::kQ3_K:
      return EncodeQ3_K;
    case GgmlType::kQ4_K:
      return EncodeQ4_K;
    case GgmlType::kQ5_K:
      return EncodeQ5_K;
    case GgmlType::kQ6_K:
      return EncodeQ6_K;
    case GgmlType::kIQ4_NL:
      return EncodeIq4Nl;
    case GgmlType::kIQ4_XS:
      return EncodeIq4Xs;
    case GgmlType::kMXFP4:
      return EncodeMxfp4;
    default:
      return nullptr;
  }
}

bool IsPlain(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16;
}

void EncodePlain(GgmlType type, absl::Span<const float> row, uint8_t* out) {
  if (type == GgmlType::kF32) {
    std::memcpy(out, row.data(), row.size() * sizeof(float));
    return;
  }
  for (size_t i = 0; i < row.size(); ++i) {
    if (type == GgmlType::kF16) {
      StoreF16Scale(row[i], out + 2 * i);
    } else {
      const uint16_t half = F32ToBf16(row[i]);
      std::memcpy(out + 2 * i, &half, sizeof(half));
    }
  }
}

// The weights of one block: the importance, or 1 where there is none or all of it is 0, scaled so
// that the largest is 1 (sums of squares then stay in range).
void BlockWeights(absl::Span<const float> importance, int64_t at, int n, float* w) {
  float largest = 0;
  for (int i = 0; i < n && !importance.empty(); ++i) {
    largest = std::max(largest, importance[static_cast<size_t>(at + i)]);
  }
  for (int i = 0; i < n; ++i) {
    w[i] = largest > 0 ? importance[static_cast<size_t>(at + i)] / largest : 1.0f;
  }
}

}  // namespace

bool CanEncode(GgmlType type) { return IsPlain(type) || EncoderOf(type) != nullptr; }

void EncodeRow(GgmlType type, absl::Span<const float> row, absl::Span<const float> importance,
               uint8_t* out) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  NIBBLE_CHECK(CanEncode(type) && row.size() % info.block_elements == 0);
  NIBBLE_CHECK(importance.empty() || importance.size() == row.size());
  if (IsPlain(type)) return EncodePlain(type, row, out);
  const BlockEncoder encode = EncoderOf(type);
  float w[256];
  NIBBLE_CHECK(info.block_elements <= 256);
  for (int64_t at = 0; at < static_cast<int64_t>(row.size()); at += info.block_elements) {
    BlockWeights(importance, at, info.block_elements, w);
    encode(row.data() + at, w, out);
    out += info.block_bytes;
  }
}

}  // namespace nibble
