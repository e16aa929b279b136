// What the two sides of layer_record.h agree on.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace nibble::quantize {

inline constexpr absl::string_view kLayerRecordMagic = "nblayer1";

enum class LayerRecordKind : uint8_t { kValues, kCodes, kVector, kRange, kReports };

}  // namespace nibble::quantize
