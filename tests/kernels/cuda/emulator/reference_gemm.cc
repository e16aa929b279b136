// Gemm (kernels/cuda/gemm.h) for the emulator: every sum in ascending order of columns, in f32.
// Operands must be live device memory that somebody wrote.
#include <vector>

#include "emulator/gpu.h"
#include "kernels/cuda/gemm.h"
#include "kernels/half.h"

namespace nibble::cuda {
namespace {

using emulator::GlobalMemory;
using emulator::TheGpu;

float ToFloat(DType type, uint16_t x) { return type == DType::kBf16 ? Bf16ToF32(x) : F16ToF32(x); }

bool IsReadable(const void* pointer, size_t bytes) {
  const GlobalMemory& memory = TheGpu().memory();
  return memory.Owns(pointer) && memory.IsLive(pointer, bytes) && memory.IsWritten(pointer, bytes);
}

cudaError_t MultiplyRow(const GemmCall& call, int32_t row, const std::vector<float>& w) {
  GlobalMemory& memory = TheGpu().memory();
  const auto* x = static_cast<const uint16_t*>(call.x) + int64_t{row} * call.x_stride;
  float* y = call.y + int64_t{row} * call.y_stride;
  const size_t x_bytes = static_cast<size_t>(call.cols) * 2;
  const size_t y_bytes = static_cast<size_t>(call.out) * 4;
  if (!IsReadable(x, x_bytes) || !memory.IsLive(y, y_bytes)) return cudaErrorIllegalAddress;
  std::vector<float> values(call.cols);
  for (int32_t c = 0; c < call.cols; ++c) values[c] = ToFloat(call.dtype, x[c]);
  for (int32_t n = 0; n < call.out; ++n) {
    const float* of_w = &w[static_cast<size_t>(n) * call.cols];
    float sum = 0;
    for (int32_t c = 0; c < call.cols; ++c) sum += values[c] * of_w[c];
    y[n] = sum;
  }
  memory.MarkSeenByAll(y, y_bytes);
  return cudaSuccess;
}

cudaError_t Multiply(const GemmCall& call) {
  const auto* codes = static_cast<const uint16_t*>(call.w);
  const size_t size = static_cast<size_t>(call.out) * call.cols;
  if (!IsReadable(codes, size * 2)) return cudaErrorIllegalAddress;
  std::vector<float> w(size);
  for (size_t i = 0; i < size; ++i) w[i] = ToFloat(call.dtype, codes[i]);
  for (int32_t row = 0; row < call.rows; ++row) {
    if (const cudaError_t error = MultiplyRow(call, row, w); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

class ReferenceGemm : public Gemm {
 public:
  std::string name() const override { return "reference GEMM"; }
  cudaError_t Run(const GemmCall& call, cudaStream_t) override {
    const bool is_aligned = reinterpret_cast<uintptr_t>(call.x) % 16 == 0 &&
                            reinterpret_cast<uintptr_t>(call.w) % 16 == 0 && call.cols % 8 == 0 &&
                            call.x_stride % 8 == 0;
    if (!is_aligned || call.rows < 1 || call.rows > kGemmRows || call.out < 1) {
      return cudaErrorInvalidValue;
    }
    return TheGpu().Do([call] { return Multiply(call); });
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm() { return std::make_unique<ReferenceGemm>(); }

}  // namespace nibble::cuda
