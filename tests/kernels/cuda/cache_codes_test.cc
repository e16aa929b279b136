// Every code of the 8-bit caches, widened to both 16-bit types: exactly its value.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "kernels/fp8.h"
#include "kernels/half.h"
#include "probes.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

class WidenTest : public testing::TestWithParam<std::tuple<bool, bool, bool, bool>> {};

TEST_P(WidenTest, EveryCodeBecomesItsValue) {
  const auto [int8, f16, unpack, apart] = GetParam();
  std::vector<uint32_t> codes(64);
  // Codes that differ in their signs stand side by side.
  const auto code_at = [](int i) { return static_cast<uint8_t>(i * 97 + 5); };
  for (int i = 0; i < 256; ++i) codes[i / 4] |= uint32_t{code_at(i)} << i % 4 * 8;
  const DeviceArray<uint32_t> in(codes), out(128);
  ASSERT_EQ(ProbeWiden({int8, f16, unpack, apart}, in.data(), out.data()), cudaSuccess)
      << TheGpu().TakeFault();
  const std::vector<uint32_t> pairs = out.Read();
  const float unit = !f16 ? 1 : int8 ? 0x1p-7f : unpack ? 1 : 0x1p-8f;
  for (int i = 0; i < 256; ++i) {
    const uint8_t code = code_at(i);
    if (!int8 && code % 128 == 127) continue;  // NaN, which no row of a cache has
    const float value = int8 ? static_cast<int8_t>(code) : E4m3ToF32(code);
    const int n = i % 4, pair = apart ? n % 2 : n / 2, half = apart ? n / 2 : n % 2;
    const auto bits = static_cast<uint16_t>(pairs[i / 4 * 2 + pair] >> half * 16);
    EXPECT_EQ(f16 ? F16ToF32(bits) : Bf16ToF32(bits), value * unit) << "code " << int{code};
  }
}

INSTANTIATE_TEST_SUITE_P(Each, WidenTest,
                         testing::Combine(testing::Bool(), testing::Bool(), testing::Bool(),
                                          testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "Int8" : "Fp8") +
                                  (std::get<1>(info.param) ? "ToF16" : "ToBf16") +
                                  (std::get<2>(info.param) ? "Unpacked" : "") +
                                  (std::get<3>(info.param) ? "Apart" : "");
                         });

}  // namespace
}  // namespace nibble::cuda
