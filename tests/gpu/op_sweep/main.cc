// op_sweep cpu|cuda:N [linear|attention|rows|shapes] [small]: a JSON line for each op and size
// (sweep.h), as soon as it is known; shapes, which a CPU has not, only when asked for. Exit code 1
// and a line on stderr at the first error.
#include <cstdio>
#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> Make(const std::string& device) {
  if (device == "cpu") return CreateCpuBackend({});
  CudaOptions options;
  if (!absl::StartsWith(device, "cuda:") || !absl::SimpleAtoi(device.substr(5), &options.ordinal)) {
    return absl::InvalidArgumentError("the device is '" + device + "', needed cpu or cuda:N");
  }
  return CreateCudaBackend(options);
}

absl::Status Run(const std::string& device, const std::string& what, const Options& options) {
  const MakeBackend make = [&device] { return Make(device); };
  const auto report = [](const Figure& figure) { std::cout << JsonLine(figure) << std::endl; };
  absl::Status status;
  if (what == "rows" || what.empty()) status.Update(SweepRowOps(make, options, report));
  if (what == "attention" || what.empty()) status.Update(SweepAttention(make, options, report));
  if (what == "linear" || what.empty()) status.Update(SweepLinear(make, options, report));
  if (what == "shapes" && device == "cpu")
    return absl::InvalidArgumentError("the device is 'cpu', shapes needs cuda:N");
  if (what == "shapes") status.Update(SweepTiledShapes(make, options, report));
  return status;
}

}  // namespace
}  // namespace nibble::sweep

int main(int argc, char** argv) {
  nibble::sweep::Options options;
  std::string device, what;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "small") {
      options.small = true;
      options.seconds_each = 1e-4;
      options.repetitions = 2;
    } else if (word == "linear" || word == "attention" || word == "rows" || word == "shapes") {
      what = word;
    } else {
      device = word;
    }
  }
  const absl::Status status = nibble::sweep::Run(device, what, options);
  if (status.ok()) return 0;
  std::cerr << "op_sweep: " << status.ToString() << "\n";
  return 1;
}
