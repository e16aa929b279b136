// `nibble inspect --machine`: what the CPU backend finds here, what it chose and why.
#pragma once

#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/io.h"
#include "cli/output.h"
#include "kernels/machine.h"

namespace nibble {

nlohmann::ordered_json MachineJson(const MachineInfo& machine);
void PrintMachineText(const MachineInfo& machine, std::ostream& out);

int RunInspectMachine(OutputFormat output, const Io& io);

}  // namespace nibble
