#include "kernels/cuda/pack_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/w4_pack.h"
#include "kernels/half.h"

namespace nibble::cuda {
namespace {

using quant::Format;

int32_t Nibble(const quant::Matrix& matrix, int64_t element) {
  return matrix.codes[element / 2] >> (element % 2 * 4) & 15;
}

// (s * a) * q + m * b of a k-quant with its products made: exact, they have 17 bits at most.
quant::Matrix WithoutSubScales(const quant::Matrix& matrix, Format format, int32_t group,
                               bool with_mins) {
  quant::Matrix plain;
  plain.format = format;
  plain.rows = matrix.rows;
  plain.cols = matrix.cols;
  plain.group = group;
  plain.codes = matrix.codes;
  const int32_t of_super = quant::kSuperBlock / group;
  const int64_t groups = int64_t{matrix.rows} * matrix.cols / group;
  for (int64_t g = 0; g < groups; ++g) {
    const float scale = matrix.scales[g / of_super];
    if (with_mins) {
      plain.scales.push_back(scale * static_cast<float>(matrix.sub_scales[2 * g]));
      plain.offsets.push_back(matrix.offsets[g / of_super] *
                              static_cast<float>(matrix.sub_scales[2 * g + 1]));
    } else {
      plain.scales.push_back(scale * static_cast<float>(static_cast<int8_t>(matrix.sub_scales[g])));
    }
  }
  return plain;
}

void Append(std::vector<uint8_t>& bytes, const void* values, size_t size) {
  bytes.resize(RoundUp16(static_cast<int64_t>(bytes.size())));
  const auto* from = static_cast<const uint8_t*>(values);
  bytes.insert(bytes.end(), from, from + size);
  bytes.resize(RoundUp16(static_cast<int64_t>(bytes.size())));
}

HostMatrix WithScales(const quant::Matrix& matrix, Storage storage,
                      const std::vector<uint8_t>& codes) {
  HostMatrix packed;
  packed.stored.storage = storage;
  packed.stored.rows = matrix.rows;
  packed.stored.cols = matrix.cols;
  if (HasScales(storage)) {
    packed.stored.group = matrix.group;
    packed.stored.row_group = matrix.row_group;
    packed.stored.offsets = !matrix.offsets.empty();
  }
  packed.bytes.reserve(StoredBytes(packed.stored));
  Append(packed.bytes, codes.data(), codes.size());
  Append(packed.bytes, matrix.scales.data(), matrix.scales.size() * sizeof(float));
  Append(packed.bytes, matrix.offsets.data(), matrix.offsets.size() * sizeof(float));
  return packed;
}

HostMatrix WidenNibbles(const quant::Matrix& matrix) {
  std::vector<uint8_t> codes(int64_t{matrix.rows} * matrix.cols);
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<uint8_t>(Nibble(matrix, static_cast<int64_t>(i)));
  }
  return WithScales(matrix, Storage::kInt8, codes);
}

HostMatrix PackFloats(const quant::Matrix& matrix) {
  std::vector<float> values(int64_t{matrix.rows} * matrix.cols);
  std::memcpy(values.data(), matrix.codes.data(), matrix.codes.size());
  const auto all = [&](auto is) { return std::all_of(values.begin(), values.end(), is); };
  const bool is_f16 = all([](float x) { return F16ToF32(F32ToF16(x)) == x; });
  const bool is_bf16 = !is_f16 && all([](float x) { return Bf16ToF32(F32ToBf16(x)) == x; });
  if (!is_f16 && !is_bf16) return WithScales(matrix, Storage::kF32, matrix.codes);
  std::vector<uint8_t> codes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = is_f16 ? F32ToF16(values[i]) : F32ToBf16(values[i]);
    std::memcpy(&codes[2 * i], &half, 2);
  }
  return WithScales(matrix, is_f16 ? Storage::kF16 : Storage::kBf16, codes);
}

absl::StatusOr<HostMatrix> PackNibbles(const quant::Matrix& matrix) {
  absl::StatusOr<W4Packed> packed = PackW4(matrix);
  if (!packed.ok()) return packed.status();
  HostMatrix host;
  host.stored.storage = Storage::kW4;
  host.stored.rows = matrix.rows;
  host.stored.cols = matrix.cols;
  host.stored.w4 = packed->layout;
  host.bytes = std::move(packed->bytes);
  return host;
}

// Whether each fp8 piece has a scale for all its rows, which therefore are groups of other sizes.
bool HaveScalesOfPieces(const std::vector<MatrixPiece>& pieces) {
  const quant::Matrix& first = pieces[0].matrix;
  if (pieces.size() == 1 || first.format != Format::kFp8) return false;
  const bool is_block = first.row_group == quant::kFp8Block && first.group == quant::kFp8Block;
  return std::any_of(pieces.begin(), pieces.end(), [&](const MatrixPiece& piece) {
    const int32_t row_group = piece.matrix.row_group;
    return row_group != first.row_group || (row_group != 1 && !is_block);
  });
}

void SpreadRowGroups(quant::Matrix& piece) {
  const std::vector<float> scales = std::move(piece.scales);
  const int64_t groups = (piece.cols + piece.group - 1) / piece.group;
  piece.scales.clear();
  for (int32_t row = 0; row < piece.rows; ++row) {
    const auto from = scales.begin() + row / piece.row_group * groups;
    piece.scales.insert(piece.scales.end(), from, from + groups);
  }
  piece.row_group = 1;
}

template <class T>
void AppendAll(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// The header, in the machine's byte order.
struct Header {
  int32_t rows, cols, group, row_group, storage, offsets;
  int32_t w4_group, w4_table_codes, w4_f32_scales, w4_offsets, w4_zero;
  float table[16];
};

}  // namespace

absl::StatusOr<HostMatrix> PackMatrix(const quant::Matrix& matrix) {
  if (const absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  if (matrix.cols % 8 != 0) {
    return absl::UnimplementedError(
        absl::StrCat("the CUDA kernels need columns in multiples of 8, not ", matrix.cols));
  }
  switch (matrix.format) {
    case Format::kInt4Affine:
      return matrix.group % 32 == 0 ? PackNibbles(matrix) : WidenNibbles(matrix);
    case Format::kLut4:
      return PackNibbles(matrix);
    case Format::kQ4K:
      return PackNibbles(WithoutSubScales(matrix, Format::kInt4Affine, quant::kQ4KSubBlock, true));
    case Format::kQ5K: {
      const quant::Matrix plain =
          WithoutSubScales(matrix, Format::kInt8, quant::kQ4KSubBlock, true);
      return WithScales(plain, Storage::kInt8, plain.codes);
    }
    case Format::kQ6K: {
      const quant::Matrix plain =
          WithoutSubScales(matrix, Format::kInt8, quant::kQ6KSubBlock, false);
      return WithScales(plain, Storage::kInt8, plain.codes);
    }
    case Format::kInt5Affine:
    case Format::kInt8:
      return WithScales(matrix, Storage::kInt8, matrix.codes);
    case Format::kFp8:
      return WithScales(matrix, matrix.fp8 == quant::Fp8::kE4m3 ? Storage::kE4m3 : Storage::kE5m2,
                        matrix.codes);
    case Format::kBf16:
      return WithScales(matrix, Storage::kBf16, matrix.codes);
    case Format::kF32:
      break;
  }
  return PackFloats(matrix);
}

absl::StatusOr<quant::Matrix> JoinPieces(int32_t rows, std::vector<MatrixPiece> pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const MatrixPiece& a, const MatrixPiece& b) { return a.first_row < b.first_row; });
  quant::Matrix whole;
  const bool spread = !pieces.empty() && HaveScalesOfPieces(pieces);
  for (MatrixPiece& piece : pieces) {
    quant::Matrix& part = piece.matrix;
    if (spread) SpreadRowGroups(part);
    if (piece.first_row == 0) {
      whole = std::move(part);
      continue;
    }
    const bool fits = piece.first_row == whole.rows && part.format == whole.format &&
                      part.cols == whole.cols && part.group == whole.group &&
                      part.row_group == whole.row_group &&
                      part.offsets.empty() == whole.offsets.empty();
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat("rows from ", piece.first_row, " on do not continue the ", whole.rows,
                       " rows of ", quant::FormatName(whole.format), " before them"));
    }
    AppendAll(whole.codes, part.codes);
    AppendAll(whole.scales, part.scales);
    AppendAll(whole.offsets, part.offsets);
    AppendAll(whole.sub_scales, part.sub_scales);
    whole.rows += part.rows;
  }
  if (whole.rows != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pieces have ", whole.rows, " rows, the matrix has ", rows));
  }
  return whole;
}

std::string HeaderOf(const StoredMatrix& stored) {
  Header header = {};
  header.rows = stored.rows;
  header.cols = stored.cols;
  header.group = stored.group;
  header.row_group = stored.row_group;
  header.storage = static_cast<int32_t>(stored.storage);
  header.offsets = stored.offsets;
  header.w4_group = stored.w4.group;
  header.w4_table_codes = stored.w4.codes == W4Codes::kTable;
  header.w4_f32_scales = stored.w4.f32_scales;
  header.w4_offsets = stored.w4.offsets;
  header.w4_zero = stored.w4.zero;
  std::copy(std::begin(stored.w4.table), std::end(stored.w4.table), header.table);
  return std::string(reinterpret_cast<const char*>(&header), sizeof header);
}

absl::StatusOr<StoredMatrix> StoredOf(absl::string_view bytes) {
  constexpr int32_t kMost = 1 << 24;  // rows, or columns: 2^48 codes fit an int64
  const auto refuse = [](auto... parts) {
    return absl::DataLossError(absl::StrCat("packed matrix: ", parts...));
  };
  Header h;
  if (bytes.size() != sizeof h) return refuse("a header of ", bytes.size(), " bytes");
  std::memcpy(&h, bytes.data(), sizeof h);
  if (h.rows < 1 || h.rows > kMost) return refuse("rows is ", h.rows);
  if (h.cols < 8 || h.cols > kMost || h.cols % 8 != 0) return refuse("cols is ", h.cols);
  if (h.storage < 0 || h.storage > static_cast<int32_t>(Storage::kF32)) {
    return refuse("storage is ", h.storage);
  }
  for (const int32_t flag : {h.offsets, h.w4_table_codes, h.w4_f32_scales, h.w4_offsets}) {
    if (flag != 0 && flag != 1) return refuse("a flag is ", flag);
  }
  StoredMatrix stored;
  stored.storage = static_cast<Storage>(h.storage);
  stored.rows = h.rows;
  stored.cols = h.cols;
  if (HasScales(stored.storage)) {
    if (h.group < 8 || h.group > kMost || h.group % 8 != 0) return refuse("group is ", h.group);
    if (h.row_group < 1 || h.row_group > kMost) return refuse("row_group is ", h.row_group);
    stored.group = h.group;
    stored.row_group = h.row_group;
    stored.offsets = h.offsets != 0;
  }
  if (stored.storage != Storage::kW4) return stored;
  if (h.w4_group != 32 && h.w4_group != 64 && h.w4_group != 128) {
    return refuse("the group of 4-bit codes is ", h.w4_group);
  }
  if (h.w4_zero < 0 || h.w4_zero > 15) return refuse("zero is ", h.w4_zero);
  stored.w4.rows = h.rows;
  stored.w4.cols = h.cols;
  stored.w4.group = h.w4_group;
  stored.w4.codes = h.w4_table_codes != 0 ? W4Codes::kTable : W4Codes::kInteger;
  stored.w4.f32_scales = h.w4_f32_scales != 0;
  stored.w4.offsets = h.w4_offsets != 0 && h.w4_table_codes == 0;
  stored.w4.zero = h.w4_zero;
  std::copy(std::begin(h.table), std::end(h.table), stored.w4.table);
  return stored;
}

}  // namespace nibble::cuda
