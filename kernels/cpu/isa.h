// Which instruction set the CPU backend runs, found by cpuid at start-up. (AVX2 here means AVX2 +
// FMA + F16C; AVX-512-VNNI means F, BW, DQ, VL and VNNI; both also need the operating system to
// save the registers.)
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"

namespace nibble {

struct IsaChoice {
  CpuIsa isa = CpuIsa::kScalar;  // never kAuto
  std::string why;               // one line: what the machine has, what was chosen and why
};

absl::string_view IsaName(CpuIsa isa);  // "auto", "scalar", "avx2", "avx512_vnni"

// The best this machine has.
CpuIsa DetectIsa();
// All this machine has, slowest first: kScalar is always among them.
std::vector<CpuIsa> SupportedIsas();

// `wanted`, or the best for kAuto. FAILED_PRECONDITION when the machine lacks it, naming what it
// has.
absl::StatusOr<IsaChoice> ChooseIsa(CpuIsa wanted);

}  // namespace nibble
