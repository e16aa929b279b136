// Which instruction set the CPU backend runs, found at start-up: by cpuid on x86-64 (with XGETBV:
// the operating system must save the wide registers), by AT_HWCAP on arm64.
//
//   scalar            plain C++, everywhere; the oracle of the others
//   avx2              AVX2, FMA, F16C
//   avx512            and AVX-512 F, BW, DQ, VL
//   avx_vnni          avx2 and AVX-VNNI (VPDPBUSD in 256 bits: Alder Lake)
//   avx512_vnni       avx512 and AVX-512-VNNI
//   avx512_vnni_bf16  avx512_vnni and AVX-512-BF16
//   neon_dotprod      arm64 with SDOT and UDOT (ARMv8.2 DotProd)
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

absl::string_view IsaName(CpuIsa isa);  // "auto", or a name of the list above

// All of the list above, on any architecture, in its order (which is the enum's).
std::vector<CpuIsa> AllIsas();

// Those this machine has, in that order: scalar first, the best last.
std::vector<CpuIsa> SupportedIsas();

// The best this machine has.
CpuIsa DetectIsa();
// All this machine has, slowest first: kScalar is always among them.
std::vector<CpuIsa> SupportedIsas();

// `wanted`, or the best for kAuto. FAILED_PRECONDITION when the machine lacks it, naming what it
// has.
absl::StatusOr<IsaChoice> ChooseIsa(CpuIsa wanted);

// What attention multiplies in; its sums are f32 in any case.
struct AttentionChoice {
  DType products = DType::kF32;  // kF32 or kBf16
  std::string why;               // a phrase: "bf16 products .., because"
};

// bf16 on avx512_vnni_bf16 with int8 activations, which round more: VDPBF16PS does twice the
// multiply-adds of an f32 FMA. f32 everywhere else.
AttentionChoice ChooseAttention(CpuIsa isa, CpuActivations activations);

}  // namespace nibble
