#include "engine/weights/ggml_types.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place");

struct TypeRow {
  int32_t id;
  const char* name;
  int32_t block_elements;
  int32_t block_bytes;
  bool readable;
};

// Ids 4, 5, 31-33 and 36-38 were removed from the format.
constexpr TypeRow kTypes[] = {
    {0, "F32", 1, 4, true},          {1, "F16", 1, 2, true},
    {2, "Q4_0", 32, 18, true},       {3, "Q4_1", 32, 20, true},
    {6, "Q5_0", 32, 22, true},       {7, "Q5_1", 32, 24, true},
    {8, "Q8_0", 32, 34, true},       {9, "Q8_1", 32, 36, false},
    {10, "Q2_K", 256, 84, true},     {11, "Q3_K", 256, 110, true},
    {12, "Q4_K", 256, 144, true},    {13, "Q5_K", 256, 176, true},
    {14, "Q6_K", 256, 210, true},    {15, "Q8_K", 256, 292, false},
    {16, "IQ2_XXS", 256, 66, false}, {17, "IQ2_XS", 256, 74, false},
    {18, "IQ3_XXS", 256, 98, false}, {19, "IQ1_S", 256, 50, false},
    {20, "IQ4_NL", 32, 18, true},    {21, "IQ3_S", 256, 110, false},
    {22, "IQ2_S", 256, 82, false},   {23, "IQ4_XS", 256, 136, true},
    {24, "I8", 1, 1, false},         {25, "I16", 1, 2, false},
    {26, "I32", 1, 4, false},        {27, "I64", 1, 8, false},
    {28, "F64", 1, 8, false},        {29, "IQ1_M", 256, 56, false},
    {30, "BF16", 1, 2, true},        {34, "TQ1_0", 256, 54, false},
    {35, "TQ2_0", 256, 66, false},   {39, "MXFP4", 32, 17, true},
    {40, "NVFP4", 64, 36, true},     {41, "Q1_0", 128, 18, false},
    {42, "Q2_0", 64, 18, false},
};

constexpr int8_t kIq4NlValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
// e2m1, times two.
constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

uint16_t LoadU16(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float LoadF32(const uint8_t* bytes) { return std::bit_cast<float>(LoadU32(bytes)); }

// Element j < 16 is the low nibble of byte j, element j + 16 its high nibble.
uint8_t Nibble32(const uint8_t* qs, int j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }

void BlockQ4_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(Nibble32(block + 2, j) - 8) * d;
}

void BlockQ4_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(Nibble32(block + 4, j)) * d + m;
}

int FiveBits(const uint8_t* qs, uint32_t high, int j) {
  return Nibble32(qs, j) | static_cast<int>((high >> j & 1u) << 4);
}

void BlockQ5_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const uint32_t high = LoadU32(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(FiveBits(block + 6, high, j) - 16) * d;
}

void BlockQ5_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  const uint32_t high = LoadU32(block + 4);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(FiveBits(block + 8, high, j)) * d + m;
}

void BlockQ8_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(static_cast<int8_t>(block[2 + j])) * d;
}

// f16 d; f16 dmin; u8 scales[12]; u8 qs[128]: 64 elements share 32 bytes, low nibbles first.
void BlockQ4_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  const uint8_t* qs = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const SixBitPair pair = UnpackSixBitPair(block + 4, sub);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    for (int l = 0; l < 32; ++l) {
      const int q = qs[(sub / 2) * 32 + l] >> (4 * (sub % 2)) & 15;
      out[sub * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

// As Q4_K with u8 qh[32] before qs: bit `sub` of qh[l] is the fifth bit.
void BlockQ5_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  const uint8_t* qh = block + 16;
  const uint8_t* qs = block + 48;
  for (int sub = 0; sub < 8; ++sub) {
    const SixBitPair pair = UnpackSixBitPair(block + 4, sub);
    const float scale = d * static_cast<float>(pair.scale);
    const float min = dmin * static_cast<float>(pair.min);
    for (int l = 0; l < 32; ++l) {
      const int low = qs[(sub / 2) * 32 + l] >> (4 * (sub % 2)) & 15;
      const int q = low + ((qh[l] >> sub & 1) << 4);
      out[sub * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

// u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d: two halves of 128 elements, each four rows of 32.
void BlockQ6_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* ql = block + half * 64;
    const uint8_t* qh = block + 128 + half * 32;
    const uint8_t* scales = block + 192 + half * 8;
    for (int row = 0; row < 4; ++row) {
      for (int l = 0; l < 32; ++l) {
        const int low = ql[(row % 2) * 32 + l] >> (4 * (row / 2)) & 15;
        const int q = (low | (qh[l] >> (2 * row) & 3) << 4) - 32;
        const auto scale = static_cast<int8_t>(scales[l / 16 + 2 * row]);
        out[half * 128 + row * 32 + l] = d * static_cast<float>(scale) * static_cast<float>(q);
      }
    }
  }
}

// u8 scales[16]: scale in the low nibble, min in the high; u8 qs[64]; f16 d; f16 dmin.
void BlockQ2_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 80);
  const float dmin = LoadF16(block + 82);
  for (int n = 0; n < 256; ++n) {
    const uint8_t pair = block[n / 16];
    const float scale = d * static_cast<float>(pair & 15);
    const float min = dmin * static_cast<float>(pair >> 4);
    out[n] = scale * static_cast<float>(Q2KCode(block, n)) - min;
  }
}

// u8 hmask[32]; u8 qs[64]; u8 scales[12]; f16 d.
void BlockQ3_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 108);
  for (int n = 0; n < 256; ++n) {
    const float scale = d * static_cast<float>(Q3KScale(block, n / 16));
    out[n] = scale * static_cast<float>(Q3KCode(block, n));
  }
}

void BlockIq4Xs(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int n = 0; n < 256; ++n) {
    const float scale = d * static_cast<float>(Iq4XsScale(block, n / 32));
    out[n] = scale * static_cast<float>(kIq4NlValues[Nibble32(block + 8 + n / 32 * 16, n % 32)]);
  }
}

// u8 d[4], one for 16 elements; u8 qs[32]: element j < 8 of 16 is the low nibble of byte j.
void BlockNvfp4(const uint8_t* block, float* out) {
  for (int n = 0; n < 64; ++n) {
    const uint8_t byte = block[4 + n / 16 * 8 + n % 8];
    const uint8_t code = n % 16 < 8 ? byte & 15 : byte >> 4;
    out[n] = Nvfp4Scale(block[n / 16]) * static_cast<float>(kMxfp4Values[code]);
  }
}

void BlockOfValues(const int8_t (&values)[16], float scale, const uint8_t* qs, float* out) {
  for (int j = 0; j < 32; ++j) out[j] = scale * static_cast<float>(values[Nibble32(qs, j)]);
}

void DequantizeOne(GgmlType type, const uint8_t* block, float* out) {
  switch (type) {
    case GgmlType::kF32:
      *out = LoadF32(block);
      return;
    case GgmlType::kF16:
      *out = LoadF16(block);
      return;
    case GgmlType::kBF16:
      *out = Bf16ToF32(LoadU16(block));
      return;
    case GgmlType::kQ4_0:
      return BlockQ4_0(block, out);
    case GgmlType::kQ4_1:
      return BlockQ4_1(block, out);
    case GgmlType::kQ5_0:
      return BlockQ5_0(block, out);
    case GgmlType::kQ5_1:
      return BlockQ5_1(block, out);
    case GgmlType::kQ8_0:
      return BlockQ8_0(block, out);
    case GgmlType::kQ4_K:
      return BlockQ4_K(block, out);
    case GgmlType::kQ5_K:
      return BlockQ5_K(block, out);
    case GgmlType::kQ6_K:
      return BlockQ6_K(block, out);
    case GgmlType::kQ2_K:
      return BlockQ2_K(block, out);
    case GgmlType::kQ3_K:
      return BlockQ3_K(block, out);
    case GgmlType::kIQ4_XS:
      return BlockIq4Xs(block, out);
    case GgmlType::kNVFP4:
      return BlockNvfp4(block, out);
    case GgmlType::kIQ4_NL:
      return BlockOfValues(kIq4NlValues, LoadF16(block), block + 2, out);
    case GgmlType::kMXFP4:
      return BlockOfValues(kMxfp4Values, Mxfp4Scale(block[0]), block + 1, out);
    default:
      NIBBLE_CHECK(!"a readable type");
  }
}

bool ScalesFinite(GgmlType type, const uint8_t* block) {
  switch (type) {
    case GgmlType::kF32:
      return std::isfinite(LoadF32(block));
    case GgmlType::kBF16:
      return std::isfinite(Bf16ToF32(LoadU16(block)));
    case GgmlType::kF16:
    case GgmlType::kQ4_0:
    case GgmlType::kQ5_0:
    case GgmlType::kQ8_0:
    case GgmlType::kIQ4_NL:
    case GgmlType::kIQ4_XS:
      return std::isfinite(LoadF16(block));
    case GgmlType::kQ2_K:
      return std::isfinite(LoadF16(block + 80)) && std::isfinite(LoadF16(block + 82));
    case GgmlType::kQ3_K:
      return std::isfinite(LoadF16(block + 108));
    case GgmlType::kNVFP4:
      return ((block[0] | block[1] | block[2] | block[3]) & 0x80) == 0;
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_1:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      return std::isfinite(LoadF16(block)) && std::isfinite(LoadF16(block + 2));
    case GgmlType::kQ6_K:
      return std::isfinite(LoadF16(block + 208));
    case GgmlType::kMXFP4:
      return block[0] <= kMaxMxfp4Exponent;
    default:
      NIBBLE_CHECK(!"a readable type");
      return false;
  }
}

}  // namespace

GgmlTypeInfo TypeInfo(int32_t ggml_type) {
  for (const TypeRow& row : kTypes) {
    if (row.id == ggml_type) {
      return {row.name, row.block_elements, row.block_bytes, row.readable};
    }
  }
  return {absl::StrCat("type ", ggml_type), 0, 0, false};
}

const int8_t* CodeValues(GgmlType type) {
  switch (type) {
    case GgmlType::kIQ4_NL:
    case GgmlType::kIQ4_XS:
      return kIq4NlValues;
    case GgmlType::kMXFP4:
    case GgmlType::kNVFP4:
      return kMxfp4Values;
    default:
      return nullptr;
  }
}

float Nvfp4Scale(uint8_t code) {
  code &= 0x7F;
  return code == 0x7F ? 0.0f : 0.5f * E4m3ToF32(code);
}

// Both: two halves of 128 elements over 32 bytes each, four rows of 32 at shifts 0, 2, 4 and 6.
int Q2KCode(const uint8_t* block, int n) {
  return block[16 + n / 128 * 32 + n % 32] >> (2 * (n / 32 % 4)) & 3;
}

int Q3KCode(const uint8_t* block, int n) {
  const int low = block[32 + n / 128 * 32 + n % 32] >> (2 * (n / 32 % 4)) & 3;
  return low - ((block[n % 32] >> (n / 32) & 1) != 0 ? 0 : 4);
}

// The low nibbles of bytes 0 to 7 are those of scales 0 to 7, the high ones of 8 to 15; the last
// four bytes hold two more bits of each.
int Q3KScale(const uint8_t* block, int j) {
  const uint8_t* scales = block + 96;
  const int low = scales[j % 8] >> (j < 8 ? 0 : 4) & 15;
  return (low | (scales[8 + j % 4] >> (2 * (j / 4)) & 3) << 4) - 32;
}

int Iq4XsScale(const uint8_t* block, int j) {
  const int low = block[4 + j / 2] >> (4 * (j % 2)) & 15;
  return (low | (LoadU16(block + 2) >> (2 * j) & 3) << 4) - 32;
}

float Mxfp4Scale(uint8_t exponent) { return std::ldexp(1.0f, exponent - 128); }

uint32_t LoadU32(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float LoadF16(const uint8_t* bytes) { return F16ToF32(LoadU16(bytes)); }

SixBitPair UnpackSixBitPair(const uint8_t* scales, int j) {
  const uint8_t* q = scales;
  if (j < 4) return {static_cast<uint8_t>(q[j] & 63), static_cast<uint8_t>(q[j + 4] & 63)};
  return {static_cast<uint8_t>((q[j + 4] & 15) | (q[j - 4] >> 6) << 4),
          static_cast<uint8_t>(q[j + 4] >> 4 | (q[j] >> 6) << 4)};
}

void DequantizeBlocks(GgmlType type, absl::Span<const uint8_t> bytes, int64_t n, float* out) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  NIBBLE_CHECK(info.readable && n % info.block_elements == 0);
  NIBBLE_CHECK(static_cast<int64_t>(bytes.size()) == n / info.block_elements * info.block_bytes);
  const uint8_t* block = bytes.data();
  for (int64_t i = 0; i < n; i += info.block_elements, block += info.block_bytes) {
    DequantizeOne(type, block, out + i);
  }
}

absl::Status CheckFinite(GgmlType type, absl::Span<const uint8_t> bytes) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  NIBBLE_CHECK(info.readable && bytes.size() % info.block_bytes == 0);
  const size_t num_blocks = bytes.size() / info.block_bytes;
  for (size_t b = 0; b < num_blocks; ++b) {
    if (ScalesFinite(type, bytes.data() + b * info.block_bytes)) continue;
    if (info.block_elements == 1) {
      return absl::DataLossError(absl::StrCat("element ", b, " is not finite"));
    }
    return absl::DataLossError(
        absl::StrCat("block ", b, " has a scale or offset that is not finite"));
  }
  return absl::OkStatus();
}

}  // namespace nibble
