// The table of a lut4 matrix as the kernels want it.
#pragma once

#include <array>

#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {

// Exact in one plane of bytes where the entries are whole multiples, -127 to 127, of one power of
// two (IQ4_NL, MXFP4 and other e2m1 tables), in two planes otherwise (NF4, bitsandbytes' FP4):
// LutTable says how close. REQUIRES finite entries.
LutTable MakeLutTable(const std::array<float, 16>& values);

}  // namespace nibble::cpu
