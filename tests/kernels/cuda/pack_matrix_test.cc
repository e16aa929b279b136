// What packing on the host promises beside the values themselves (rows_test): pieces in any order
// are the whole, headers survive and lies are found, and plain floats take the narrowest exact
// type.
#include "kernels/cuda/pack_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using quant::Format;
using quant::RandomSpec;
using testing::HasSubstr;

TEST(PackMatrix, PiecesInAnyOrderAreTheWhole) {
  for (const RandomSpec& spec :
       {RandomSpec{.rows = 300, .cols = 64, .offsets = true},
        RandomSpec{.format = Format::kInt8, .rows = 300, .cols = 64},
        RandomSpec{.format = Format::kLut4, .rows = 300, .cols = 64},
        RandomSpec{.format = Format::kBf16, .rows = 300, .cols = 64, .group = 0}}) {
    const quant::Matrix matrix = quant::RandomMatrix(spec, 3);
    std::vector<MatrixPiece> pieces;
    for (const int32_t first : {256, 0, 128}) {
      pieces.push_back({first, quant::SliceRows(matrix, first, std::min(128, 300 - first))});
    }
    const quant::Matrix joined = JoinPieces(300, std::move(pieces)).value();
    EXPECT_EQ(PackMatrix(joined).value().bytes, PackMatrix(matrix).value().bytes);
  }
}

TEST(PackMatrix, PiecesWithOneFp8ScaleEachHaveTheScaleOfEveryRow) {
  RandomSpec spec{.format = Format::kFp8, .rows = 128, .cols = 64, .group = 64, .row_group = 128};
  quant::Matrix first = quant::RandomMatrix(spec, 1);
  spec.rows = spec.row_group = 20;
  quant::Matrix second = quant::RandomMatrix(spec, 2);
  const quant::Matrix joined = JoinPieces(148, {{128, second}, {0, first}}).value();
  std::vector<float> expected(64), got(64);
  for (const int32_t row : {0, 127, 128, 147}) {
    quant::DequantizeRow(row < 128 ? first : second, row % 128, expected.data());
    quant::DequantizeRow(joined, row, got.data());
    EXPECT_EQ(got, expected) << row;
  }
}

TEST(PackMatrix, PiecesThatDoNotFillTheMatrixAreRefused) {
  const quant::Matrix matrix = quant::RandomMatrix({.rows = 256, .cols = 64}, 3);
  const auto message = [](absl::StatusOr<quant::Matrix> joined) {
    return std::string(joined.status().message());
  };
  EXPECT_THAT(message(JoinPieces(300, {{0, matrix}})),
              HasSubstr("have 256 rows, the matrix has 300"));
  EXPECT_THAT(message(JoinPieces(512, {{0, matrix}, {300, matrix}})), HasSubstr("do not continue"));
}

TEST(PackMatrix, KeepsFloatsInTheNarrowestExactType) {
  quant::Matrix matrix{.format = Format::kF32, .rows = 1, .cols = 8};
  const auto storage = [&](float value) {
    matrix.codes.assign(32, 0);
    std::memcpy(matrix.codes.data() + 12, &value, 4);
    return PackMatrix(matrix).value().stored.storage;
  };
  EXPECT_EQ(storage(1.0f + 0x1p-10f), Storage::kF16);
  EXPECT_EQ(storage(1e30f), Storage::kF32);
  EXPECT_EQ(storage(0x1p100f), Storage::kBf16);
  EXPECT_EQ(storage(1.0f + 0x1p-20f), Storage::kF32);
}

TEST(PackMatrix, RefusesWhatNoKernelReads) {
  const auto code = [](const RandomSpec& spec) {
    return PackMatrix(quant::RandomMatrix(spec, 1)).status().code();
  };
  EXPECT_EQ(code({.format = Format::kLut4, .rows = 2, .cols = 32, .group = 16}),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code({.format = Format::kF32, .rows = 2, .cols = 12, .group = 0}),
            absl::StatusCode::kUnimplemented);
}

TEST(PackMatrix, HeadersSurvive) {
  for (const RandomSpec& spec :
       {RandomSpec{.rows = 40, .cols = 64, .offsets = true},
        RandomSpec{.format = Format::kLut4, .rows = 40, .cols = 64},
        RandomSpec{.format = Format::kInt8, .rows = 40, .cols = 64, .offsets = true},
        RandomSpec{.format = Format::kInt8, .rows = 40, .cols = 64, .group = 64},
        RandomSpec{.format = Format::kBf16, .rows = 40, .cols = 64, .group = 0},
        RandomSpec{.format = Format::kFp8, .rows = 40, .cols = 64, .group = 64, .row_group = 40}}) {
    const StoredMatrix stored = PackMatrix(quant::RandomMatrix(spec, 1)).value().stored;
    const StoredMatrix read = StoredOf(HeaderOf(stored)).value();
    EXPECT_EQ(HeaderOf(read), HeaderOf(stored));
    EXPECT_EQ(StoredBytes(read), StoredBytes(stored));
  }
}

TEST(PackMatrix, HeadersThatLieAreFound) {
  const std::string header =
      HeaderOf(PackMatrix(quant::RandomMatrix({.rows = 40, .cols = 64}, 1)).value().stored);
  EXPECT_FALSE(StoredOf(header.substr(1)).ok());
  // Any 32-bit number of it, made any of these: refused, or a matrix whose bytes can be counted.
  for (size_t at = 0; at + 4 <= 8 * 4; at += 4) {
    for (const int32_t value : {-1, 0, 1, 2, 3, 4, 64, 1 << 30, INT32_MIN, INT32_MAX}) {
      std::string changed = header;
      std::memcpy(&changed[at], &value, 4);
      const absl::StatusOr<StoredMatrix> read = StoredOf(changed);
      if (!read.ok()) {
        EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
        continue;
      }
      EXPECT_GT(StoredBytes(*read), 0) << at << " = " << value;
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
