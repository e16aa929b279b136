// Errors that tests measure, as lines of their output that `error_table` gathers into the table of
// kernels/cuda/README.md.
#pragma once

#include <cstdio>
#include <string>

#include "half_rows.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

inline const char* TypeOf(DType type) {
  switch (type) {
    case DType::kBf16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "int8";
    case DType::kF8E4M3:
      return "fp8";
    default:
      return "f32";
  }
}

// Tells `error` and returns it. `type` is that of x and y.
inline double Measured(const std::string& kernel, const std::string& format, DType type,
                       double error) {
  std::printf("measured|%s|%s|%s|%.3e\n", kernel.c_str(), format.c_str(), TypeOf(type), error);
  return error;
}

}  // namespace nibble::cuda
