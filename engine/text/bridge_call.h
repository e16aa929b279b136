// What the C++ side of a bridge call needs: borrowed strings in, owned buffers out, codes as
// absl::Status.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/text/bridge/bridge.h"

namespace nibble {

inline nibble_str ToBridge(absl::string_view text) { return {text.data(), text.size()}; }

// A buffer the bridge fills; gives it back.
class BridgeBuffer {
 public:
  BridgeBuffer() = default;
  ~BridgeBuffer() { nibble_buffer_free(&buffer_); }
  BridgeBuffer(const BridgeBuffer&) = delete;
  BridgeBuffer& operator=(const BridgeBuffer&) = delete;

  nibble_buffer* out() { return &buffer_; }
  absl::string_view view() const { return {buffer_.data, buffer_.size}; }

 private:
  nibble_buffer buffer_ = {};
};

inline absl::Status BridgeStatus(int32_t code, const BridgeBuffer& error) {
  switch (code) {
    case NIBBLE_BRIDGE_OK:
      return absl::OkStatus();
    case NIBBLE_BRIDGE_INVALID:
      return absl::InvalidArgumentError(error.view());
    case NIBBLE_BRIDGE_UNIMPLEMENTED:
      return absl::UnimplementedError(error.view());
    case NIBBLE_BRIDGE_EXHAUSTED:
      return absl::ResourceExhaustedError(error.view());
    default:
      return absl::InternalError(error.view());
  }
}

}  // namespace nibble
