// The CUDA half of backend.h in a program that is built without it.
#include "kernels/backend.h"

namespace nibble {

absl::Status CheckCuda(int32_t) {
  return absl::FailedPreconditionError(
      "this program was built without CUDA; `make cuda` builds one with it (NIBBLE_CUDA=ON)");
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  return CheckCuda(options.ordinal);
}

}  // namespace nibble
