#include "kernels/cpu/isa.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

// The compiler's cpuid support also asks XGETBV whether the operating system saves the wide
// registers.
bool HasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool HasAvx512Vnni() {
#if defined(__x86_64__)
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool Has(CpuIsa isa) {
  if (isa == CpuIsa::kAvx512Vnni) return HasAvx512Vnni();
  if (isa == CpuIsa::kAvx2) return HasAvx2();
  return true;
}

}  // namespace

absl::string_view IsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
      return "auto";
    case CpuIsa::kScalar:
      return "scalar";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512Vnni:
      return "avx512_vnni";
  }
  return "unknown";
}

CpuIsa DetectIsa() {
  if (HasAvx512Vnni()) return CpuIsa::kAvx512Vnni;
  return HasAvx2() ? CpuIsa::kAvx2 : CpuIsa::kScalar;
}

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> isas;
  for (const CpuIsa isa : {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512Vnni}) {
    if (Has(isa)) isas.push_back(isa);
  }
  return isas;
}

absl::StatusOr<IsaChoice> ChooseIsa(CpuIsa wanted) {
  const CpuIsa best = DetectIsa();
  if (wanted == CpuIsa::kAuto) {
    return IsaChoice{best, absl::StrCat("cpuid: the best of this machine is ", IsaName(best),
                                        "; chosen automatically")};
  }
  if (!Has(wanted)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cpu isa '", IsaName(wanted), "': this machine lacks it, its best is '",
                     IsaName(best), "'; leave the choice at auto"));
  }
  return IsaChoice{wanted, absl::StrCat("cpuid: the best of this machine is ", IsaName(best), "; ",
                                        IsaName(wanted), " was asked for")};
}

}  // namespace nibble
