// An array in device memory, for tests; written against the CUDA runtime alone, so that it is the
// emulator's or a real device's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace nibble::cuda {

template <class T>
class DeviceArray {
 public:
  // Not written by anyone.
  explicit DeviceArray(size_t size) : size_(size) {
    NIBBLE_CHECK(cudaMalloc(reinterpret_cast<void**>(&data_), size * sizeof(T)) == cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Write(values); }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  void Write(const std::vector<T>& values) {
    NIBBLE_CHECK(values.size() == size_);
    NIBBLE_CHECK(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice) ==
                 cudaSuccess);
  }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    NIBBLE_CHECK(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost) ==
                 cudaSuccess);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace nibble::cuda
