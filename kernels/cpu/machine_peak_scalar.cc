// The readable one: what the compiler makes of plain loops, as it does for the scalar kernels. The
// operands stay in the first cache instead of registers.
#include "kernels/cpu/machine_peak.h"

namespace nibble::cpu {
namespace {

constexpr int kLanes = 64;

template <typename Operand, typename Sum>
int64_t Macs(int64_t rounds) {
  Operand a[kLanes], b[kLanes];
  Sum sums[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    a[i] = static_cast<Operand>(i % 16);
    b[i] = static_cast<Operand>(1);
    sums[i] = 0;
  }
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kLanes; ++i) sums[i] += static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]);
    // Every round reads and writes all of them: nothing is folded into one multiplication.
    asm volatile("" : : "r"(a), "r"(b), "r"(sums) : "memory");
  }
  return rounds * kLanes;
}

uint64_t Read(const uint8_t* data, int64_t size_bytes) {
  using Word = uint64_t __attribute__((may_alias));
  const Word* words = reinterpret_cast<const Word*>(data);
  uint64_t sums[4] = {};
  for (int64_t i = 0; i < size_bytes / 8; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] ^= words[i + j];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

}  // namespace

// Sums wrap around after many rounds: unsigned, so that they may.
const PeakKernels kScalarPeak = {Macs<uint8_t, uint32_t>, Macs<float, float>, Read};

}  // namespace nibble::cpu
