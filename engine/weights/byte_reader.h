// A cursor over untrusted bytes: every read is checked against what is left before it happens, and
// nothing is allocated. Errors are DATA_LOSS "ends at byte 24, inside the tensor count".
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"

namespace nibble {

class ByteReader {
 public:
  // `bytes` must outlive the reader and every view it hands out.
  explicit ByteReader(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // A little-endian number. `what` names it in the error.
  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    static_assert(std::is_arithmetic_v<T>);
    if (remaining() < sizeof(T)) return EndsInside(what);
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  // The next n bytes, in place.
  absl::StatusOr<absl::Span<const uint8_t>> Take(uint64_t n, absl::string_view what) {
    if (remaining() < n) return EndsInside(what);
    const absl::Span<const uint8_t> taken = bytes_.subspan(position_, n);
    position_ += n;
    return taken;
  }

  // A u64 length and as many bytes.
  absl::StatusOr<absl::string_view> ReadString(absl::string_view what) {
    NIBBLE_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > remaining()) {
      return absl::DataLossError(absl::StrCat(what, " at byte ", position_, " claims ", length,
                                              " bytes, the file has ", remaining(),
                                              " left; is the file truncated?"));
    }
    const absl::string_view text(reinterpret_cast<const char*>(bytes_.data()) + position_, length);
    position_ += length;
    return text;
  }

 private:
  absl::Status EndsInside(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat("ends at byte ", bytes_.size(), ", inside ", what,
                                            "; is the file truncated?"));
  }

  absl::Span<const uint8_t> bytes_;
  uint64_t position_ = 0;
};

}  // namespace nibble
