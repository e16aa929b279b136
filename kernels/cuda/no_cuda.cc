// The CUDA half of backend.h in a program that is built without it.
#include "kernels/backend.h"

namespace nibble {

absl::Status CheckCuda(int32_t) {
  return absl::FailedPreconditionError(
      "this program was built without CUDA; configure with -DNIBBLE_CUDA=ON for one with it");
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  return CheckCuda(options.ordinal);
}

}  // namespace nibble
