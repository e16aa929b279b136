// The header of a safetensors file: JSON from tensor names to dtype, shape and place, checked
// completely before anything is believed. Format, and the checks its own library makes:
// https://github.com/huggingface/safetensors. Used by SafetensorsFile only.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble {

enum class SafetensorsType : uint8_t {
  kBool,
  kF4,
  kF6E2m3,
  kF6E3m2,
  kU8,
  kI8,
  kF8E5m2,
  kF8E4m3,
  kF8E8m0,
  kF8E4m3Fnuz,
  kF8E5m2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
absl::string_view TypeName(SafetensorsType type);  // "BF16"
int TypeBits(SafetensorsType type);

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;  // row-major, outermost first; empty: one element
  int64_t offset = 0;          // from the data section's start
  int64_t size_bytes = 0;
  int64_t num_elements = 0;  // may be 0
};

struct SafetensorsHeader {
  std::vector<SafetensorsTensor> tensors;                     // by offset
  std::vector<std::pair<std::string, std::string>> metadata;  // "__metadata__"
};

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes; the library's own bound
inline constexpr size_t kMaxSafetensorsTensors = 1 << 17;       // as kMaxGgufTensors
inline constexpr size_t kMaxSafetensorsName = 512;              // bytes; the longest have about 100
inline constexpr size_t kMaxSafetensorsDims = 8;
inline constexpr size_t kMaxSafetensorsMetadata = 4096;

// `json` is the header's text, `data_bytes` what follows it. DATA_LOSS for anything but one JSON
// object of well-formed entries whose tensors, sorted by offset, fill the data section from 0 to
// its end without a hole or an overlap; UNIMPLEMENTED names a dtype that is not known. Memory:
// about 150 bytes a tensor, and the metadata.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(absl::string_view json,
                                                        uint64_t data_bytes);

}  // namespace nibble
