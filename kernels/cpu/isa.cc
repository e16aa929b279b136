#include "kernels/cpu/isa.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace nibble {
namespace {

#if defined(__x86_64__)

constexpr char kSource[] = "cpuid";

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool HasAvx512Vnni() { return HasAvx512() && __builtin_cpu_supports("avx512vnni"); }

bool Has(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAuto:
    case CpuIsa::kScalar:
      return true;
    case CpuIsa::kAvx2:
      return HasAvx2();
    case CpuIsa::kAvx512:
      return HasAvx512();
    case CpuIsa::kAvxVnni:
      return HasAvx2() && __builtin_cpu_supports("avxvnni");
    case CpuIsa::kAvx512Vnni:
      return HasAvx512Vnni();
    case CpuIsa::kAvx512VnniBf16:
      return HasAvx512Vnni() && __builtin_cpu_supports("avx512bf16");
    case CpuIsa::kNeonDotprod:
      return false;
  }
  return false;
}

#elif defined(__aarch64__)

constexpr char kSource[] = "hwcap";

bool Has(CpuIsa isa) {
  if (isa == CpuIsa::kNeonDotprod) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  return isa == CpuIsa::kScalar || isa == CpuIsa::kAuto;
}

#else

constexpr char kSource[] = "this architecture";

bool Has(CpuIsa isa) { return isa == CpuIsa::kScalar || isa == CpuIsa::kAuto; }

#endif

std::string NamesOf(const std::vector<CpuIsa>& isas) {
  return absl::StrJoin(isas, ", ",
                       [](std::string* out, CpuIsa isa) { absl::StrAppend(out, IsaName(isa)); });
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
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvxVnni:
      return "avx_vnni";
    case CpuIsa::kAvx512Vnni:
      return "avx512_vnni";
    case CpuIsa::kAvx512VnniBf16:
      return "avx512_vnni_bf16";
    case CpuIsa::kNeonDotprod:
      return "neon_dotprod";
  }
  return "unknown";
}

std::vector<CpuIsa> AllIsas() {
  return {CpuIsa::kScalar,     CpuIsa::kAvx2,           CpuIsa::kAvx512,     CpuIsa::kAvxVnni,
          CpuIsa::kAvx512Vnni, CpuIsa::kAvx512VnniBf16, CpuIsa::kNeonDotprod};
}

std::vector<CpuIsa> SupportedIsas() {
  std::vector<CpuIsa> supported;
  for (const CpuIsa isa : AllIsas()) {
    if (Has(isa)) supported.push_back(isa);
  }
  return supported;
}

CpuIsa DetectIsa() { return SupportedIsas().back(); }

absl::StatusOr<IsaChoice> ChooseIsa(CpuIsa wanted) {
  const std::vector<CpuIsa> supported = SupportedIsas();
  const CpuIsa best = supported.back();
  if (!Has(wanted)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cpu isa '", IsaName(wanted), "': this machine lacks it, it has ",
                     NamesOf(supported), "; leave the choice at auto"));
  }
  const std::string found = absl::StrCat(kSource, " found ", NamesOf(supported), "; ");
  if (wanted == CpuIsa::kAuto) {
    return IsaChoice{best,
                     absl::StrCat(found, IsaName(best), " is the best, chosen automatically")};
  }
  return IsaChoice{wanted, absl::StrCat(found, IsaName(wanted), " was asked for")};
}

AttentionChoice ChooseAttention(CpuIsa isa, CpuActivations activations) {
  if (isa != CpuIsa::kAvx512VnniBf16) {
    return {DType::kF32, absl::StrCat("f32 products, ", IsaName(isa), " has none of bf16")};
  }
  if (activations != CpuActivations::kInt8) {
    return {DType::kF32, "f32 products, only int8 activations let them round"};
  }
  return {DType::kBf16,
          "bf16 products (VDPBF16PS, twice the rate of f32), int8 activations round more"};
}

}  // namespace nibble
