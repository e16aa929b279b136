// The fixed bytes of a base file (base_file.h), as its reader and its writer both know them.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/hash.h"
#include "engine/eval/base_file.h"

namespace nibble {

inline constexpr char kBaseMagic[] = "nibblekl";
inline constexpr uint32_t kBaseByteOrder = 0x01020304;
inline constexpr uint32_t kBaseForeignByteOrder = 0x04030201;
inline constexpr uint32_t kBaseVersion = 1;
inline constexpr int32_t kBaseMostCode = 65535;
inline constexpr double kBaseMostSpread = 1000;  // nats below which p is 0 in f64 all the same

struct BaseHeader {
  char magic[8] = {};
  uint32_t byte_order = 0;
  uint32_t version = 0;
  uint64_t file_bytes = 0;
  int32_t vocab_size = 0;
  int32_t window = 0, skip = 0, stride = 0, bos_id = 0;
  uint32_t description_bytes = 0;
  int64_t num_windows = 0;
  int64_t num_positions = 0;
  Digest ids = {};
  uint64_t checksum = 0;
};
static_assert(sizeof(BaseHeader) == 104);

// Before the codes of a position.
struct BasePosition {
  uint64_t checksum = 0;
  float target_logprob = 0;
  float step = 0;
};
static_assert(sizeof(BasePosition) == 16);

inline int64_t BasePositionBytes(int32_t vocab_size) {
  return static_cast<int64_t>(sizeof(BasePosition)) + 2 * int64_t{vocab_size};
}

inline Digest BaseIdsDigest(absl::Span<const int32_t> ids) {
  return Sha256({reinterpret_cast<const uint8_t*>(ids.data()), ids.size() * sizeof(int32_t)});
}

inline uint64_t BaseHeaderChecksum(BaseHeader header, absl::string_view description) {
  header.checksum = 0;
  std::vector<uint8_t> bytes(sizeof(header) + description.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), description.data(), description.size());
  return Checksum(bytes);
}

// `record` is a whole position; its number keeps it from passing for another.
inline uint64_t BasePositionChecksum(absl::Span<const uint8_t> record, int64_t number) {
  return Checksum(record.subspan(sizeof(uint64_t))) ^ Scatter(static_cast<uint64_t>(number));
}

}  // namespace nibble
