// What ops work on: views of rows in device memory. Nothing here owns anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble {

enum class DType : uint8_t { kF32, kF16, kBf16, kI8, kI32, kF8E4M3 };

constexpr size_t SizeOf(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kI8:
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
}

// rows x cols elements; row r begins at data + r * stride elements. Activations are f32 on the CPU
// backend (bf16 on CUDA): `Backend::activation_dtype()` says which.
struct Tensor {
  void* data = nullptr;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t stride = 0;
  DType dtype = DType::kF32;

  explicit operator bool() const { return data != nullptr; }
  float* f32() const { return static_cast<float*>(data); }
  float* f32_row(int32_t r) const { return f32() + static_cast<int64_t>(r) * stride; }
};

}  // namespace nibble
