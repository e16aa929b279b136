// What one instruction set provides to MeasurePeaks (kernels/machine.h): loops that do nothing but
// multiply and add in registers, or nothing but read. Only plain types here, because the ISA files
// include it (see CMakeLists.txt).
#pragma once

#include <cstdint>

namespace nibble::cpu {

// Runs `rounds` rounds of independent accumulators; returns the multiply-adds done.
using MacsFn = int64_t (*)(int64_t rounds);

struct PeakKernels {
  // The int8 one uses the cheapest exact way of this instruction set to sum u4 x s8 products into
  // 32 bits.
  MacsFn int8_macs;
  MacsFn f32_macs;
  // Reads every byte of data [size_bytes]; the result keeps the loads alive. REQUIRES: 64-byte
  // aligned, size_bytes % 1024 == 0.
  uint64_t (*read)(const uint8_t* data, int64_t size_bytes);
};

extern const PeakKernels kScalarPeak;
extern const PeakKernels kAvx2Peak;    // needs AVX2, FMA
extern const PeakKernels kAvx512Peak;  // needs AVX-512 F, BW and VNNI
extern const MacsFn kAvx512Bf16Macs;   // needs AVX-512-BF16

}  // namespace nibble::cpu
