// The fixed bytes of a packed file (packed_file.h), as its reader and its writer both know them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/types/span.h"
#include "engine/base/hash.h"
#include "engine/weights/packed_file.h"

namespace nibble {

inline constexpr char kPackedMagic[] = "nibblepk";
inline constexpr uint32_t kByteOrder = 0x01020304;
inline constexpr uint32_t kForeignByteOrder = 0x04030201;
inline constexpr uint32_t kPackedVersion = 1;

struct PackedHeader {
  char magic[8] = {};
  uint32_t byte_order = 0;
  uint32_t version = 0;
  uint64_t file_bytes = 0;
  uint64_t table_bytes = 0;
  uint64_t checksum = 0;
  uint8_t zeros[24] = {};
};
static_assert(sizeof(PackedHeader) == kPackedAlignment);

constexpr uint64_t Aligned(uint64_t offset) {
  return (offset + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
}

inline uint64_t HeaderChecksum(const PackedHeader& header, absl::Span<const uint8_t> table) {
  std::vector<uint8_t> bytes(sizeof(header) + table.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!table.empty()) std::memcpy(bytes.data() + sizeof(header), table.data(), table.size());
  return Checksum(bytes);
}

}  // namespace nibble
