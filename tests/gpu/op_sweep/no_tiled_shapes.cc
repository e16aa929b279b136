// In a program built without CUDA.
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {

absl::Status SweepTiledShapes(const MakeBackend&, const Options&, Report) {
  return absl::UnimplementedError("shapes: this program was built without CUDA");
}

}  // namespace nibble::sweep
