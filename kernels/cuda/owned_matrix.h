// A weight of this backend together with the memory it lies in.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stored_matrix.h"

namespace nibble::cuda {

class OwnedMatrix : public CudaMatrix {
 public:
  OwnedMatrix(const StoredMatrix& stored, DeviceBuffer memory)
      : CudaMatrix(stored), memory_(std::move(memory)) {
    stored_.bytes = static_cast<const uint8_t*>(memory_.data());
  }
  // Its bytes on the host, 64-byte aligned, kept for as long as the matrix: for files.
  absl::Span<const uint8_t> HostBytes(Device& device) const {
    constexpr size_t kAlignment = 64;
    const auto size = static_cast<size_t>(size_bytes());
    host_.resize(size + kAlignment);
    const size_t skip = -reinterpret_cast<uintptr_t>(host_.data()) % kAlignment;
    device.Download(host_.data() + skip, stored_.bytes, size_bytes());
    return absl::MakeConstSpan(host_).subspan(skip, size);
  }

 private:
  DeviceBuffer memory_;
  mutable std::vector<uint8_t> host_;
};

}  // namespace nibble::cuda
