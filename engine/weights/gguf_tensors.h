// The tensor table of a GGUF file: names, shapes, types, and where each one's bytes lie. Used by
// GgufFile only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

inline constexpr uint64_t kMaxGgufTensors =
    1 << 17;  // the largest models in the wild have some thousands
inline constexpr uint64_t kMaxGgufTensorName = 63;  // bytes; ggml's own bound
inline constexpr uint32_t kMaxGgufDims = 4;

// Reads `count` entries: names unique, dims positive, their product and the bytes representable,
// rows whole blocks, types known (UNIMPLEMENTED otherwise). Offsets are not checked yet.
absl::StatusOr<std::vector<GgufTensor>> ReadTensorTable(ByteReader& reader, uint64_t count);

// Every tensor must start where the one before it ends, padded to `alignment`, and end within
// `data_bytes`.
absl::Status CheckTensorOffsets(absl::Span<const GgufTensor> tensors, uint64_t alignment,
                                uint64_t data_bytes);

}  // namespace nibble
