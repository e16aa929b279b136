#include "cli/io.h"

namespace nibble {

int Fail(const Io& io, const absl::Status& status) {
  io.err << "nibble: " << absl::StatusCodeToString(status.code()) << ": " << status.message()
         << std::endl;
  return kExitFailure;
}

int WrongUsage(const Io& io, const absl::Status& status) {
  Fail(io, status);
  return kExitUsage;
}

int ExitWith(const Io& io, const absl::Status& status) {
  return absl::IsInvalidArgument(status) ? WrongUsage(io, status) : Fail(io, status);
}

}  // namespace nibble
