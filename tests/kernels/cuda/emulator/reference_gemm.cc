// Gemm (kernels/cuda/gemm.h) for the emulator: every sum in ascending order of columns, in f32.
// Operands must be live device memory that somebody wrote.
#include <algorithm>
#include <vector>

#include "emulator/gpu.h"
#include "kernels/cuda/gemm.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble::cuda {
namespace {

using emulator::GlobalMemory;
using emulator::TheGpu;

float ToFloat(DType type, uint16_t x) { return type == DType::kBf16 ? Bf16ToF32(x) : F16ToF32(x); }

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

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

float OfCode(CodesShape::Kind kind, uint8_t code) {
  switch (kind) {
    case CodesShape::Kind::kInt8:
      return static_cast<int8_t>(code);
    case CodesShape::Kind::kE5m2:
    case CodesShape::Kind::kE5m2Blocks:
      return E5m2ToF32(code);
    default:
      return E4m3ToF32(code);
  }
}

// The sum of one element of y; of blocks, each 128 columns' sum is scaled before it is added.
double SumOfCodes(const CodesCall& call, int32_t row, int32_t n) {
  const CodesShape& shape = call.shape;
  const bool is_int8 = shape.kind == CodesShape::Kind::kInt8;
  const auto x_kind = is_int8 ? CodesShape::Kind::kInt8 : CodesShape::Kind::kE4m3;
  double sum = 0;
  for (int32_t first = 0; first < shape.cols; first += 128) {
    double part = 0;  // f32 on the device; exact here
    for (int32_t c = first; c < std::min(first + 128, shape.cols); ++c) {
      part += double{OfCode(x_kind, call.x[int64_t{row} * shape.cols + c])} *
              OfCode(shape.kind, call.w[int64_t{n} * shape.cols + c]);
    }
    const int32_t block = first / 128;
    if (HasBlocks(shape.kind)) {
      part *= double{call.x_scales[int64_t{block} * call.rows + row]} *
              call.w_scales[int64_t{n / 128} * BlockScaleStride(shape.cols) + block];
    }
    sum += part;
  }
  return sum;
}

cudaError_t MultiplyCodes(const CodesCall& call) {
  const CodesShape& shape = call.shape;
  GlobalMemory& memory = TheGpu().memory();
  const auto rows = static_cast<size_t>(call.rows), out = static_cast<size_t>(shape.out);
  const auto cols = static_cast<size_t>(shape.cols);
  bool readable = IsReadable(call.x, rows * cols) && IsReadable(call.w, out * cols) &&
                  memory.IsLive(call.y, rows * out * 4);
  if (HasBlocks(shape.kind)) {
    readable = readable && IsReadable(call.x_scales, cols / 128 * rows * 4) &&
               IsReadable(call.w_scales, BlocksOf(shape.out) * BlockScaleStride(shape.cols) * 4);
  }
  if (!readable) return cudaErrorIllegalAddress;
  for (int32_t row = 0; row < call.rows; ++row) {
    for (int32_t n = 0; n < shape.out; ++n) {
      const double sum = SumOfCodes(call, row, n);
      const int64_t at = int64_t{row} * shape.out + n;
      if (shape.kind == CodesShape::Kind::kInt8) {
        static_cast<int32_t*>(call.y)[at] = static_cast<int32_t>(sum);
      } else {
        static_cast<float*>(call.y)[at] = static_cast<float>(sum);
      }
    }
  }
  memory.MarkSeenByAll(call.y, rows * out * 4);
  return cudaSuccess;
}

class ReferenceGemm : public Gemm {
 public:
  ReferenceGemm(int32_t major, int32_t minor) : major_(major), minor_(minor) {}
  std::string name() const override { return "reference GEMM"; }
  cudaError_t Run(const GemmCall& call, cudaStream_t) override {
    const bool is_aligned = IsAligned(call.x) && IsAligned(call.w) && IsAligned(call.y) &&
                            call.cols % 8 == 0 && call.x_stride % 8 == 0;
    if (!is_aligned || call.rows < 1 || call.rows > kMostGemmRows || call.out < 1) {
      return cudaErrorInvalidValue;
    }
    return TheGpu().Do([call] { return Multiply(call); });
  }
  bool Multiplies(const CodesShape& shape) override {
    return HasUnitsFor(shape.kind, major_, minor_) && HasWholeTiles(shape);
  }
  cudaError_t RunCodes(const CodesCall& call, cudaStream_t) override {
    const bool is_aligned = IsAligned(call.x) && IsAligned(call.w) && IsAligned(call.y) &&
                            IsAligned(call.x_scales) && IsAligned(call.w_scales);
    if (!is_aligned || !Multiplies(call.shape) || call.rows < 1 || call.rows > kMostGemmRows ||
        call.rows != RowsFor(call.shape.kind, call.rows)) {
      return cudaErrorInvalidValue;
    }
    return TheGpu().Do([call] { return MultiplyCodes(call); });
  }

 private:
  const int32_t major_, minor_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm(int32_t major, int32_t minor) {
  return std::make_unique<ReferenceGemm>(major, minor);
}

}  // namespace nibble::cuda
