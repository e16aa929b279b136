#include "kernels/cuda/pack_matrix.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/tiled_pack.h"
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

HostMatrix Plain(const quant::Matrix& matrix, Storage storage, std::vector<uint8_t> codes) {
  HostMatrix packed;
  packed.stored.storage = storage;
  packed.stored.rows = matrix.rows;
  packed.stored.cols = matrix.cols;
  packed.bytes = std::move(codes);
  packed.bytes.resize(StoredBytes(packed.stored));
  return packed;
}

quant::Matrix WidenNibbles(quant::Matrix matrix) {
  std::vector<uint8_t> codes(int64_t{matrix.rows} * matrix.cols);
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<uint8_t>(Nibble(matrix, static_cast<int64_t>(i)));
  }
  matrix.codes = std::move(codes);
  matrix.format = Format::kInt8;
  return matrix;
}

HostMatrix PackFloats(const quant::Matrix& matrix) {
  std::vector<float> values(int64_t{matrix.rows} * matrix.cols);
  std::memcpy(values.data(), matrix.codes.data(), matrix.codes.size());
  const auto all = [&](auto is) { return std::all_of(values.begin(), values.end(), is); };
  const bool is_f16 = all([](float x) { return F16ToF32(F32ToF16(x)) == x; });
  const bool is_bf16 = !is_f16 && all([](float x) { return Bf16ToF32(F32ToBf16(x)) == x; });
  if (!is_f16 && !is_bf16) return Plain(matrix, Storage::kF32, matrix.codes);
  std::vector<uint8_t> codes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = is_f16 ? F32ToF16(values[i]) : F32ToBf16(values[i]);
    std::memcpy(&codes[2 * i], &half, 2);
  }
  return Plain(matrix, is_f16 ? Storage::kF16 : Storage::kBf16, std::move(codes));
}

// The kind of codes that the matrix would be kept in for the GEMM, if it has one.
std::optional<CodesShape::Kind> KindOf(const quant::Matrix& matrix) {
  using Kind = CodesShape::Kind;
  const bool by_row = matrix.group == matrix.cols;
  if (matrix.format == Format::kInt8 && by_row && matrix.offsets.empty()) return Kind::kInt8;
  if (matrix.format != Format::kFp8) return std::nullopt;
  const bool is_e4m3 = matrix.fp8 == quant::Fp8::kE4m3;
  if (by_row) return is_e4m3 ? Kind::kE4m3 : Kind::kE5m2;
  return is_e4m3 ? Kind::kE4m3Blocks : Kind::kE5m2Blocks;
}

HostMatrix Codes(const quant::Matrix& matrix, CodesShape::Kind kind) {
  HostMatrix packed;
  packed.stored.storage = Storage::kCodes;
  packed.stored.rows = matrix.rows;
  packed.stored.cols = matrix.cols;
  packed.stored.kind = kind;
  packed.bytes = matrix.codes;
  packed.bytes.resize(StoredBytes(packed.stored));
  uint8_t* scales = packed.bytes.data() + CodeScalesAt(packed.stored);
  const auto put = [&](int64_t at, float scale) { std::memcpy(scales + at * 4, &scale, 4); };
  if (!HasBlocks(kind)) {
    for (int32_t row = 0; row < matrix.rows; ++row) put(row, matrix.scales[row / matrix.row_group]);
    return packed;
  }
  const int32_t across = BlocksOf(matrix.cols);
  for (int32_t block = 0; block < BlocksOf(matrix.rows) * across; ++block) {
    put(int64_t{block / across} * BlockScaleStride(matrix.cols) + block % across,
        matrix.scales[block]);
  }
  return packed;
}

absl::StatusOr<HostMatrix> Tiled(const quant::Matrix& matrix) {
  absl::StatusOr<TiledMatrix> packed = PackTiles(matrix);
  if (!packed.ok()) return packed.status();
  HostMatrix host;
  host.stored.storage = Storage::kTiled;
  host.stored.rows = matrix.rows;
  host.stored.cols = matrix.cols;
  host.stored.tiled = packed->layout;
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
  int32_t storage, rows, cols;
  int32_t group, codes, scales, offsets, zero;  // kTiled
  int32_t kind;                                 // kCodes
  float table[16];
};

}  // namespace

absl::StatusOr<HostMatrix> PackMatrix(const quant::Matrix& matrix, const Multiplies& multiplies) {
  if (const absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  if (matrix.cols % 8 != 0) {
    return absl::UnimplementedError(
        absl::StrCat("the CUDA kernels need columns in multiples of 8, not ", matrix.cols));
  }
  const std::optional<CodesShape::Kind> kind = KindOf(matrix);
  if (multiplies && kind.has_value() &&
      multiplies({.kind = *kind, .cols = matrix.cols, .out = matrix.rows})) {
    return Codes(matrix, *kind);
  }
  switch (matrix.format) {
    case Format::kInt4Affine:
      return Tiled(matrix.group % 32 == 0 ? matrix : WidenNibbles(matrix));
    case Format::kQ4K:
      return Tiled(WithoutSubScales(matrix, Format::kInt4Affine, quant::kQ4KSubBlock, true));
    case Format::kQ5K:
      return Tiled(WithoutSubScales(matrix, Format::kInt8, quant::kQ4KSubBlock, true));
    case Format::kQ6K:
      return Tiled(WithoutSubScales(matrix, Format::kInt8, quant::kQ6KSubBlock, false));
    case Format::kLut4:
    case Format::kInt5Affine:
    case Format::kInt8:
    case Format::kFp8:
      return Tiled(matrix);
    case Format::kBf16:
      return Plain(matrix, Storage::kBf16, matrix.codes);
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
  header.storage = static_cast<int32_t>(stored.storage);
  header.rows = stored.rows;
  header.cols = stored.cols;
  header.kind = static_cast<int32_t>(stored.kind);
  header.group = stored.tiled.group;
  header.codes = static_cast<int32_t>(stored.tiled.codes);
  header.scales = static_cast<int32_t>(stored.tiled.scales);
  header.offsets = stored.tiled.offsets;
  header.zero = stored.tiled.zero;
  std::copy(std::begin(stored.tiled.table), std::end(stored.tiled.table), header.table);
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
  if (h.storage < 0 || h.storage > static_cast<int32_t>(Storage::kCodes)) {
    return refuse("storage is ", h.storage);
  }
  StoredMatrix stored;
  stored.storage = static_cast<Storage>(h.storage);
  stored.rows = h.rows;
  stored.cols = h.cols;
  if (stored.storage == Storage::kCodes) {
    if (h.kind < 0 || h.kind > static_cast<int32_t>(CodesShape::Kind::kE5m2Blocks)) {
      return refuse("the kind of codes is ", h.kind);
    }
    stored.kind = static_cast<CodesShape::Kind>(h.kind);
  }
  if (stored.storage != Storage::kTiled) return stored;
  if (h.offsets != 0 && h.offsets != 1) return refuse("a flag is ", h.offsets);
  if (h.codes < 0 || h.codes > static_cast<int32_t>(TiledCodes::kE5m2)) {
    return refuse("the kind of codes is ", h.codes);
  }
  if (h.scales < 0 || h.scales > static_cast<int32_t>(TiledScales::kBlock)) {
    return refuse("the kind of scales is ", h.scales);
  }
  stored.tiled.rows = h.rows;
  stored.tiled.cols = h.cols;
  stored.tiled.group = h.group;
  stored.tiled.codes = static_cast<TiledCodes>(h.codes);
  stored.tiled.scales = static_cast<TiledScales>(h.scales);
  stored.tiled.offsets = h.offsets != 0;
  stored.tiled.zero = h.zero;
  std::copy(std::begin(h.table), std::end(h.table), stored.tiled.table);
  if (!IsTiled(stored.tiled)) {
    return refuse("codes ", h.codes, " with scales ", h.scales, " of groups of ", h.group,
                  ", offsets ", h.offsets, ", zero ", h.zero);
  }
  return stored;
}

}  // namespace nibble::cuda
