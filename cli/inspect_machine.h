// `nibble inspect --machine`: what the CPU backend finds here, what it chose and why,
// and whether there is a CUDA device to use.
#pragma once

#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/status/status.h"
#include "cli/io.h"
#include "cli/output.h"
#include "kernels/machine.h"

namespace nibble {

// `cuda`: CheckCuda(0) of kernels/backend.h.
nlohmann::ordered_json MachineJson(const MachineInfo& machine, const absl::Status& cuda);
void PrintMachineText(const MachineInfo& machine, const absl::Status& cuda, std::ostream& out);

int RunInspectMachine(OutputFormat output, const Io& io);

}  // namespace nibble
