// What the layouts of matrix_packing.h have in common: codes without a sign, streams of bits,
// bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/methods/quantized_weight.h"

namespace nibble::quantize {

// s (q - z) with q and z of 0 .. 2^bits - 1, for every integer grid. Where a scale is 0, q and z
// are 2^(bits - 1), a zero point that every layout holds.
struct UnsignedCodes {
  int32_t groups = 0;          // of a row
  std::vector<uint8_t> codes;  // [rows, cols]
  std::vector<uint8_t> zeros;  // [rows, groups]
  std::vector<float> scales;   // [rows, groups]
};
// REQUIRES an integer grid of at most 8 bits.
UnsignedCodes ToUnsigned(const QuantizedWeight& weight);

// f16 patterns. INVALID_ARGUMENT "scale 0.1 of row 3, group 1 is no f16 ...".
absl::StatusOr<std::vector<uint16_t>> ScalesInF16(const UnsignedCodes& codes,
                                                  absl::string_view layout);

// Value `index` of a stream, as UnpackBits (linear_layout.h) reads it. REQUIRES zeros there.
void PackBits(uint32_t value, uint32_t* words, int64_t stride, int64_t index, int bits);

template <typename T>
std::vector<uint8_t> ToBytes(absl::Span<const T> values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// The rows of a [rows, cols] matrix as columns.
template <typename T>
std::vector<T> Transposed(absl::Span<const T> values, int32_t rows, int32_t cols) {
  std::vector<T> out(values.size());
  for (int32_t n = 0; n < rows; ++n) {
    for (int32_t k = 0; k < cols; ++k) {
      out[static_cast<size_t>(k) * rows + n] = values[static_cast<size_t>(n) * cols + k];
    }
  }
  return out;
}

// The group of each column.
std::vector<int32_t> GroupIndex(const QuantizedWeight& weight);

bool IsIntegerGrid(const Scheme& scheme);
bool ByGroupOrRow(const Scheme& scheme);
// config.json's group_size: -1 for a whole row.
int32_t GroupSize(const Scheme& scheme);
// "method 'x' gives <what>, the layout gptq holds <holds>; take <instead>"
absl::Status NotHeld(const Method& method, absl::string_view layout, absl::string_view holds);

}  // namespace nibble::quantize
