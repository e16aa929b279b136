#include "engine/weights/canonical.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/ggml_types.h"
#include "kernels/check.h"

namespace nibble {
namespace {

using quant::Format;
using quant::Matrix;

// Where one block's codes, scales and offsets go.
struct Place {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  float* offsets = nullptr;
  uint8_t* sub_scales = nullptr;
};

// Files pair element j with j + distance in a byte; canonical pairs 2i with 2i + 1.
void PairNibbles(const uint8_t* qs, int shift, int n, uint8_t* codes) {
  for (int i = 0; i < n / 2; ++i) {
    const int even = qs[2 * i] >> shift & 15;
    const int odd = qs[2 * i + 1] >> shift & 15;
    codes[i] = static_cast<uint8_t>(even | odd << 4);
  }
}

void PlaceQ4_0(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  *to.offsets = -8.0f * *to.scales;
  PairNibbles(block + 2, 0, 16, to.codes);
  PairNibbles(block + 2, 4, 16, to.codes + 8);
}

void PlaceQ4_1(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  *to.offsets = LoadF16(block + 2);
  PairNibbles(block + 4, 0, 16, to.codes);
  PairNibbles(block + 4, 4, 16, to.codes + 8);
}

void PlaceFiveBits(const uint8_t* qs, uint32_t high, uint8_t* codes) {
  for (int j = 0; j < 16; ++j) {
    codes[j] = static_cast<uint8_t>((qs[j] & 15) | (high >> j & 1) << 4);
    codes[j + 16] = static_cast<uint8_t>(qs[j] >> 4 | (high >> (j + 16) & 1) << 4);
  }
}

void PlaceQ5_0(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  *to.offsets = -16.0f * *to.scales;
  PlaceFiveBits(block + 6, LoadU32(block + 2), to.codes);
}

void PlaceQ5_1(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  *to.offsets = LoadF16(block + 2);
  PlaceFiveBits(block + 8, LoadU32(block + 4), to.codes);
}

void PlaceQ8_0(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  std::memcpy(to.codes, block + 2, 32);
}

void PlaceSubScales(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  *to.offsets = -LoadF16(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const SixBitPair pair = UnpackSixBitPair(block + 4, sub);
    to.sub_scales[2 * sub] = pair.scale;
    to.sub_scales[2 * sub + 1] = pair.min;
  }
}

void PlaceQ4_K(const uint8_t* block, const Place& to) {
  PlaceSubScales(block, to);
  for (int sub = 0; sub < 8; ++sub) {
    PairNibbles(block + 16 + (sub / 2) * 32, 4 * (sub % 2), 32, to.codes + sub * 16);
  }
}

void PlaceIq4Nl(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block);
  PairNibbles(block + 2, 0, 16, to.codes);
  PairNibbles(block + 2, 4, 16, to.codes + 8);
}

void PlaceMxfp4(const uint8_t* block, const Place& to) {
  *to.scales = Mxfp4Scale(block[0]);
  PairNibbles(block + 1, 0, 16, to.codes);
  PairNibbles(block + 1, 4, 16, to.codes + 8);
}

void PlaceQ2_K(const uint8_t* block, const Place& to) {
  const float d = LoadF16(block + 80);
  const float dmin = LoadF16(block + 82);
  for (int g = 0; g < 16; ++g) {
    to.scales[g] = d * static_cast<float>(block[g] & 15);
    to.offsets[g] = -dmin * static_cast<float>(block[g] >> 4);
  }
  for (int i = 0; i < 128; ++i) {
    to.codes[i] = static_cast<uint8_t>(Q2KCode(block, 2 * i) | Q2KCode(block, 2 * i + 1) << 4);
  }
}

// Three bits and 6-bit sub-scales are a part of what Q6_K can say.
void PlaceQ3_K(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block + 108);
  for (int j = 0; j < 16; ++j) to.sub_scales[j] = static_cast<uint8_t>(Q3KScale(block, j));
  for (int n = 0; n < 256; ++n) to.codes[n] = static_cast<uint8_t>(Q3KCode(block, n));
}

void PlaceIq4Xs(const uint8_t* block, const Place& to) {
  const float d = LoadF16(block);
  for (int j = 0; j < 8; ++j) {
    to.scales[j] = d * static_cast<float>(Iq4XsScale(block, j));
    PairNibbles(block + 8 + j * 16, 0, 16, to.codes + j * 16);
    PairNibbles(block + 8 + j * 16, 4, 16, to.codes + j * 16 + 8);
  }
}

void PlaceNvfp4(const uint8_t* block, const Place& to) {
  for (int j = 0; j < 4; ++j) {
    to.scales[j] = Nvfp4Scale(block[j]);
    PairNibbles(block + 4 + j * 8, 0, 8, to.codes + j * 8);
    PairNibbles(block + 4 + j * 8, 4, 8, to.codes + j * 8 + 4);
  }
}

void PlaceQ5_K(const uint8_t* block, const Place& to) {
  PlaceSubScales(block, to);
  const uint8_t* high = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const uint8_t* qs = block + 48 + (sub / 2) * 32;
    for (int l = 0; l < 32; ++l) {
      const int low = qs[l] >> (4 * (sub % 2)) & 15;
      to.codes[sub * 32 + l] = static_cast<uint8_t>(low + ((high[l] >> sub & 1) << 4));
    }
  }
}

void PlaceQ6_K(const uint8_t* block, const Place& to) {
  *to.scales = LoadF16(block + 208);
  std::memcpy(to.sub_scales, block + 192, 16);
  for (int n = 0; n < 256; ++n) {  // element n is in half n / 128, row (n / 32) % 4 of it
    const int half = n / 128, row = n / 32 % 4, l = n % 32;
    const int low = block[half * 64 + (row % 2) * 32 + l] >> (4 * (row / 2)) & 15;
    const int high = block[128 + half * 32 + l] >> (2 * row) & 3;
    to.codes[n] = static_cast<uint8_t>((low | high << 4) - 32);
  }
}

void PlaceBlock(GgmlType type, const uint8_t* block, const Place& to) {
  switch (type) {
    case GgmlType::kQ4_0:
      return PlaceQ4_0(block, to);
    case GgmlType::kQ4_1:
      return PlaceQ4_1(block, to);
    case GgmlType::kQ5_0:
      return PlaceQ5_0(block, to);
    case GgmlType::kQ5_1:
      return PlaceQ5_1(block, to);
    case GgmlType::kQ8_0:
      return PlaceQ8_0(block, to);
    case GgmlType::kQ4_K:
      return PlaceQ4_K(block, to);
    case GgmlType::kQ5_K:
      return PlaceQ5_K(block, to);
    case GgmlType::kQ6_K:
      return PlaceQ6_K(block, to);
    case GgmlType::kQ2_K:
      return PlaceQ2_K(block, to);
    case GgmlType::kQ3_K:
      return PlaceQ3_K(block, to);
    case GgmlType::kIQ4_XS:
      return PlaceIq4Xs(block, to);
    case GgmlType::kNVFP4:
      return PlaceNvfp4(block, to);
    case GgmlType::kIQ4_NL:
      return PlaceIq4Nl(block, to);
    case GgmlType::kMXFP4:
      return PlaceMxfp4(block, to);
    default:
      NIBBLE_CHECK(!"a quantized type");
  }
}

bool TwoCodesAByte(Format format) {
  return format == Format::kInt4Affine || format == Format::kLut4 || format == Format::kQ4K;
}

// Of 256 columns.
int SubScalesOf(Format format) {
  if (format == Format::kQ4K || format == Format::kQ5K)
    return 2 * quant::kSuperBlock / quant::kQ4KSubBlock;
  return format == Format::kQ6K ? quant::kSuperBlock / quant::kQ6KSubBlock : 0;
}

void PlaceAll(GgmlType type, absl::Span<const uint8_t> bytes, const CanonicalForm& form,
              Matrix& matrix) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  const int64_t num_blocks = int64_t{matrix.rows} * matrix.cols / info.block_elements;
  const int64_t codes_a_block = info.block_elements / (TwoCodesAByte(form.format) ? 2 : 1);
  const int64_t groups_a_block = info.block_elements / form.group;
  const int64_t sub_scales_a_block = SubScalesOf(form.format);
  matrix.codes.resize(num_blocks * codes_a_block);
  matrix.scales.resize(num_blocks * groups_a_block);
  if (form.offsets) matrix.offsets.resize(num_blocks * groups_a_block);
  matrix.sub_scales.resize(num_blocks * sub_scales_a_block);
  for (int64_t b = 0; b < num_blocks; ++b) {
    PlaceBlock(type, bytes.data() + b * info.block_bytes,
               {.codes = matrix.codes.data() + b * codes_a_block,
                .scales = matrix.scales.data() + b * groups_a_block,
                .offsets = form.offsets ? matrix.offsets.data() + b * groups_a_block : nullptr,
                .sub_scales = matrix.sub_scales.data() + b * sub_scales_a_block});
  }
}

void SetTable(GgmlType type, Matrix& matrix) {
  const int8_t* values = CodeValues(type);
  for (int i = 0; i < 16 && values != nullptr; ++i) {
    matrix.table[i] = static_cast<float>(values[i]);
  }
}

}  // namespace

std::optional<CanonicalForm> CanonicalFormOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return CanonicalForm{.format = Format::kF32};
    case GgmlType::kF16:
      return CanonicalForm{.format = Format::kF32, .wider = true};
    case GgmlType::kBF16:
      return CanonicalForm{.format = Format::kBf16};
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
      return CanonicalForm{.format = Format::kInt4Affine,
                           .group = 32,
                           .offsets = true,
                           .scale_bytes = 2,
                           .zero_point = type == GgmlType::kQ4_0};
    case GgmlType::kQ4_K:
      return CanonicalForm{.format = Format::kQ4K, .group = 256, .offsets = true, .scale_bytes = 2};
    case GgmlType::kQ5_0:
    case GgmlType::kQ5_1:
      return CanonicalForm{.format = Format::kInt5Affine,
                           .group = 32,
                           .offsets = true,
                           .scale_bytes = 2,
                           .zero_point = type == GgmlType::kQ5_0};
    case GgmlType::kQ8_0:
      return CanonicalForm{.format = Format::kInt8, .group = 32, .scale_bytes = 2};
    case GgmlType::kQ5_K:
      return CanonicalForm{.format = Format::kQ5K, .group = 256, .offsets = true, .scale_bytes = 2};
    case GgmlType::kQ6_K:
      return CanonicalForm{.format = Format::kQ6K, .group = 256, .scale_bytes = 2};
    case GgmlType::kQ2_K:
      return CanonicalForm{
          .format = Format::kInt4Affine, .group = 16, .offsets = true, .wider = true};
    case GgmlType::kQ3_K:
      return CanonicalForm{.format = Format::kQ6K, .group = 256, .scale_bytes = 2, .wider = true};
    case GgmlType::kIQ4_XS:
      return CanonicalForm{.format = Format::kLut4, .group = 32, .wider = true};
    case GgmlType::kNVFP4:
      return CanonicalForm{.format = Format::kLut4, .group = 16, .scale_bytes = 2, .wider = true};
    case GgmlType::kIQ4_NL:
      return CanonicalForm{.format = Format::kLut4, .group = 32, .scale_bytes = 2};
    case GgmlType::kMXFP4:
      return CanonicalForm{.format = Format::kLut4, .group = 32, .scale_bytes = 1};
    default:
      return std::nullopt;
  }
}

std::string CanonicalName(const CanonicalForm& form) {
  const absl::string_view name = quant::FormatName(form.format);
  const bool says_it = form.group == 0 || SubScalesOf(form.format) != 0;
  return says_it ? std::string(name) : absl::StrCat(name, " g", form.group);
}

int64_t CanonicalBytes(const CanonicalForm& form, int64_t num_elements) {
  switch (form.format) {
    case Format::kF32:
      return num_elements * 4;
    case Format::kBf16:
      return num_elements * 2;
    case Format::kQ4K:
      return num_elements / quant::kSuperBlock * 144;
    case Format::kQ5K:
      return num_elements / quant::kSuperBlock * 176;
    case Format::kQ6K:
      return num_elements / quant::kSuperBlock * 210;
    default:
      break;
  }
  int64_t codes = TwoCodesAByte(form.format) ? num_elements / 2 : num_elements;
  if (form.format == Format::kInt5Affine) codes = num_elements / 8 * 5;
  return codes +
         num_elements / form.group * form.scale_bytes * (form.offsets && !form.zero_point ? 2 : 1);
}

absl::StatusOr<Matrix> ToCanonical(GgmlType type, absl::Span<const uint8_t> bytes, int32_t rows,
                                   int32_t cols) {
  const std::optional<CanonicalForm> form = CanonicalFormOf(type);
  NIBBLE_CHECK(form.has_value());
  NIBBLE_RETURN_IF_ERROR(CheckFinite(type, bytes));
  Matrix matrix;
  matrix.format = form->format;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.group = form->group;
  if (form->group != 0) {
    PlaceAll(type, bytes, *form, matrix);
    SetTable(type, matrix);
  } else if (form->wider) {  // F16
    const int64_t n = int64_t{rows} * cols;
    std::vector<float> values(n);
    DequantizeBlocks(type, bytes, n, values.data());
    matrix.codes.resize(n * sizeof(float));
    std::memcpy(matrix.codes.data(), values.data(), matrix.codes.size());
  } else {
    matrix.codes.assign(bytes.begin(), bytes.end());
  }
  return matrix;
}

}  // namespace nibble
