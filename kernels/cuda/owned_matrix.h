// A weight of this backend together with the memory it lies in.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/pack_matrix.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stored_matrix.h"

namespace nibble::cuda {

class OwnedMatrix : public CudaMatrix {
 public:
  OwnedMatrix(const StoredMatrix& stored, DeviceBuffer memory)
      : CudaMatrix(stored), memory_(std::move(memory)) {
    stored_.bytes = static_cast<const uint8_t*>(memory_.data());
  }
  // A copy of its bytes on the host: for files.
  PackedBytes ToBytes(Device& device) const {
    constexpr size_t kAlignment = 64;
    const auto size = static_cast<size_t>(size_bytes());
    const auto host = std::make_shared<std::vector<uint8_t>>(size + kAlignment);
    const size_t skip = -reinterpret_cast<uintptr_t>(host->data()) % kAlignment;
    device.Download(host->data() + skip, stored_.bytes, size_bytes());
    return {HeaderOf(stored_), {absl::MakeConstSpan(*host).subspan(skip, size)}, host};
  }

 private:
  DeviceBuffer memory_;
};

}  // namespace nibble::cuda
