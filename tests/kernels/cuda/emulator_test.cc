// The emulator itself: that it names each planted fault and stays silent where there is none, that
// its matrix instructions agree with a second reading of the manual, and that its counters count
// what is known by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "fragment_model.h"
#include "kernels/half.h"
#include "planted_faults.h"
#include "probes.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using testing::ContainsRegex;
using testing::HasSubstr;

class PlantedFaultTest : public testing::TestWithParam<PlantedFault> {};

TEST_P(PlantedFaultTest, IsFoundInEveryOrder) {
  for (const uint32_t seed : {0u, 1u, 2u, 3u}) {
    SCOPED_TRACE(seed);
    const DeviceArray<float> in(std::vector<float>(kFaultFloats, 0.0f)), out(kFaultFloats);
    TheGpu().SetSeed(seed);
    const cudaError_t error = GetParam().run(in.data(), out.data());
    const std::string fault = TheGpu().TakeFault();
    TheGpu().SetSeed(0);
    EXPECT_EQ(error, GetParam().story.empty() ? cudaSuccess : cudaErrorLaunchFailure);
    EXPECT_THAT(fault, ContainsRegex(GetParam().story));
    EXPECT_EQ(fault.empty(), GetParam().story.empty()) << fault;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, PlantedFaultTest, testing::ValuesIn(PlantedFaults()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Bulk, PlantedFaultTest, testing::ValuesIn(PlantedBulkFaults()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Dependent, PlantedFaultTest, testing::ValuesIn(PlantedDependentFaults()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Group, PlantedFaultTest, testing::ValuesIn(PlantedGroupFaults()),
                         [](const auto& info) { return info.param.name; });

// The registers of a product are no memory that could fault: whoever reads them early reads NaNs.
TEST(Emulator, GivesAccumulatorsNoValueBeforeTheWait) {
  const DeviceArray<float> in(std::vector<float>(kFaultFloats, 0.0f)), out(kFaultFloats);
  ASSERT_EQ(ReadAccumulatorsEarly(in.data(), out.data()), cudaSuccess) << TheGpu().TakeFault();
  std::vector<float> values(256);
  cudaMemcpy(values.data(), out.data(), values.size() * 4, cudaMemcpyDeviceToHost);
  for (int i = 0; i < 128; ++i) {
    EXPECT_TRUE(std::isnan(values[i]));
    EXPECT_EQ(values[128 + i], 0);
  }
}

TEST(Emulator, KeepsAFaultUntilItIsTaken) {
  const DeviceArray<float> in(std::vector<float>(kFaultFloats, 0.0f)), out(kFaultFloats);
  const auto run = [&](const std::string& name) {
    for (const PlantedFault& fault : PlantedFaults()) {
      if (fault.name == name) return fault.run(in.data(), out.data());
    }
    return cudaErrorUnknown;
  };
  EXPECT_EQ(run("GlobalOutOfBounds"), cudaErrorLaunchFailure);
  EXPECT_EQ(run("SyncedThreads"), cudaErrorLaunchFailure);  // as a context that has faulted
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_THAT(TheGpu().TakeFault(), HasSubstr("block (0,0,0)"));
  EXPECT_EQ(run("SyncedThreads"), cudaSuccess);
}

// Places the elements of a matrix into registers [32, values a lane] by the second model.
template <class T, class Slot>
std::vector<T> ToRegisters(const std::vector<T>& matrix, int rows, int cols, Slot slot) {
  std::vector<T> registers(matrix.size());
  const int each = rows * cols / 32;
  for (int row = 0; row < rows; ++row) {
    for (int col = 0; col < cols; ++col) {
      const RegisterSlot at = slot(row, col);
      registers[at.lane * each + at.value] = matrix[row * cols + col];
    }
  }
  return registers;
}

std::vector<uint32_t> Pairs(const std::vector<uint16_t>& halves) {
  std::vector<uint32_t> words(halves.size() / 2);
  std::memcpy(words.data(), halves.data(), halves.size() * 2);
  return words;
}

TEST(Emulator, MultipliesMatricesAsTheManualSays) {
  for (const bool bf16 : {false, true}) {
    std::mt19937 random(7);
    const auto small = [&] {
      return static_cast<float>(static_cast<int>(random() % 31) - 15) * 0.5f;
    };  // exact
    std::vector<float> a(16 * 16), b(16 * 8), d(16 * 8);
    for (auto* matrix : {&a, &b, &d}) {
      for (float& x : *matrix) x = small();
    }
    const auto halves = [&](const std::vector<float>& values) {
      std::vector<uint16_t> out;
      for (float x : values) out.push_back(bf16 ? F32ToBf16(x) : F32ToF16(x));
      return out;
    };
    const DeviceArray<uint32_t> device_a(Pairs(ToRegisters(halves(a), 16, 16, SlotOfA)));
    const DeviceArray<uint32_t> device_b(Pairs(ToRegisters(halves(b), 16, 8, SlotOfB)));
    const DeviceArray<float> device_d(ToRegisters(d, 16, 8, SlotOfD));
    ASSERT_EQ(ProbeMma(bf16, device_a.data(), device_b.data(), device_d.data()), cudaSuccess);
    const std::vector<float> result = device_d.Read();
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < 8; ++col) {
        float expected = d[row * 8 + col];
        for (int k = 0; k < 16; ++k) expected += a[row * 16 + k] * b[k * 8 + col];
        const RegisterSlot at = SlotOfD(row, col);
        ASSERT_EQ(result[at.lane * 4 + at.value], expected)
            << "bf16 " << bf16 << " " << row << ", " << col;
      }
    }
  }
}

// One product of a warp group: [64, 16] in registers times rows of 64 columns in shared memory.
class GroupProductTest : public testing::TestWithParam<GroupProbe> {};

TEST_P(GroupProductTest, IsAsTheManualSays) {
  const GroupProbe& probe = GetParam();
  const int rows = probe.tiles * 8;
  std::mt19937 random(7);
  const auto small = [&] {
    return static_cast<float>(static_cast<int>(random() % 31) - 15) * 0.5f;
  };  // exact
  const auto half = [&](float x) { return probe.bf16 ? F32ToBf16(x) : F32ToF16(x); };
  std::vector<float> a(64 * 16), b(static_cast<size_t>(rows) * 64),
      d(static_cast<size_t>(64) * rows);
  for (auto* matrix : {&a, &b, &d}) {
    for (float& x : *matrix) x = small();
  }
  std::vector<uint16_t> a_registers(a.size()), b_memory(b.size());
  std::vector<float> d_registers(d.size());
  const auto place_of_d = [&](int row, int col) {
    const RegisterSlot at = SlotOfD(row % 16, col % 8);
    return (row / 16 * 32 + at.lane) * probe.tiles * 4 + col / 8 * 4 + at.value;
  };
  for (int row = 0; row < 64; ++row) {
    for (int col = 0; col < 16; ++col) {
      const RegisterSlot at = SlotOfA(row % 16, col);
      a_registers[(row / 16 * 32 + at.lane) * 8 + at.value] = half(a[row * 16 + col]);
    }
    for (int col = 0; col < rows; ++col) d_registers[place_of_d(row, col)] = d[row * rows + col];
  }
  for (int row = 0; row < rows; ++row) {
    for (int col = 0; col < 64; ++col) b_memory[SwizzledPlace(row, col)] = half(b[row * 64 + col]);
  }
  const DeviceArray<uint32_t> device_a(Pairs(a_registers)), device_b(Pairs(b_memory));
  const DeviceArray<float> device_d(d_registers);
  ASSERT_EQ(ProbeGroupProduct(probe, device_a.data(), device_b.data(), device_d.data()),
            cudaSuccess)
      << TheGpu().TakeFault();
  const std::vector<float> result = device_d.Read();
  for (int row = 0; row < 64; ++row) {
    for (int col = 0; col < rows; ++col) {
      float expected = probe.add ? d[row * rows + col] : 0;
      for (int k = 0; k < 16; ++k) expected += a[row * 16 + k] * b[col * 64 + probe.step * 16 + k];
      ASSERT_EQ(result[place_of_d(row, col)], expected) << row << ", " << col;
    }
  }
}

std::vector<GroupProbe> GroupProbes() {
  std::vector<GroupProbe> probes;
  for (const int tiles : {2, 4, 8, 16}) {
    for (const int step : {0, 1, 2, 3}) {
      const bool odd = step % 2 != 0;
      probes.push_back({.bf16 = odd, .add = step < 2, .tiles = tiles, .step = step});
      probes.push_back({.bf16 = !odd, .add = step >= 2, .tiles = tiles, .step = step});
    }
  }
  return probes;
}

INSTANTIATE_TEST_SUITE_P(Each, GroupProductTest, testing::ValuesIn(GroupProbes()),
                         [](const auto& info) {
                           const GroupProbe& probe = info.param;
                           return (probe.bf16 ? "Bf16" : "F16") + std::string("Of") +
                                  std::to_string(probe.tiles) + "Tiles" +
                                  (probe.add ? "Added" : "") + "Step" + std::to_string(probe.step);
                         });

// Rows of 70 columns and a stride of 80, the box from (3, 64) on: one row is past the end, and 58
// columns of the others.
TEST(Emulator, CopiesRowsAsProductsTakeThem) {
  constexpr int kRows = 10, kCols = 70, kStride = 80, kRow = 3, kCol = 64;
  std::vector<uint16_t> values(kRows * kStride);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i + 1);
  const DeviceArray<uint16_t> in(values), out(8 * 64);
  ASSERT_EQ(
      ProbeCopyRows(
          {.values = in.data(), .rows = kRows, .cols = kCols, .stride = kStride, .box_rows = 8},
          kCol, kRow, out.data()),
      cudaSuccess)
      << TheGpu().TakeFault();
  const std::vector<uint16_t> result = out.Read();
  for (int row = 0; row < 8; ++row) {
    for (int col = 0; col < 64; ++col) {
      const bool is_there = kRow + row < kRows && kCol + col < kCols;
      EXPECT_EQ(result[SwizzledPlace(row, col)],
                is_there ? values[(kRow + row) * kStride + kCol + col] : 0)
          << row << ", " << col;
    }
  }
}

TEST(Emulator, MakesNoMapThatTheManualForbids) {
  const DeviceArray<uint16_t> in(std::vector<uint16_t>(1024, 0));
  const SwizzledRowsOf good = {
      .values = in.data(), .rows = 8, .cols = 64, .stride = 64, .box_rows = 8};
  CUtensorMap map;
  EXPECT_EQ(MakeTensorMap(good, &map), cudaSuccess);
  for (const auto& change : std::vector<std::function<void(SwizzledRowsOf&)>>{
           [&](SwizzledRowsOf& m) { m.values = in.data() + 1; },
           [](SwizzledRowsOf& m) { m.rows = 0; }, [](SwizzledRowsOf& m) { m.stride = 68; },
           [](SwizzledRowsOf& m) { m.box_rows = 257; }}) {
    SwizzledRowsOf bad = good;
    change(bad);
    EXPECT_EQ(MakeTensorMap(bad, &map), cudaErrorInvalidValue);
  }
}

std::vector<uint16_t> CountingHalves(int n) {
  std::vector<uint16_t> halves(n);
  for (int i = 0; i < n; ++i) halves[i] = static_cast<uint16_t>(1000 + i);
  return halves;
}

TEST(Emulator, LoadsMatricesAsTheManualSays) {
  const std::vector<uint16_t> memory = CountingHalves(4 * 64);
  const DeviceArray<uint32_t> in(Pairs(memory)), out(128);
  for (const bool transposed : {false, true}) {
    ASSERT_EQ(ProbeLoadMatrix(transposed, in.data(), out.data()), cudaSuccess);
    const std::vector<uint32_t> registers = out.Read();
    for (int i = 0; i < 4 * 64; ++i) {
      const int row = i % 64 / 8, col = i % 8;
      const RegisterSlot at = transposed ? SlotOf8x8(col, row) : SlotOf8x8(row, col);
      EXPECT_EQ(static_cast<uint16_t>(registers[at.lane * 4 + i / 64] >> 16 * at.value), memory[i])
          << i;
    }
  }
}

TEST(Emulator, TransposesAMatrixOfRegisters) {
  const std::vector<uint16_t> matrix = CountingHalves(64);
  const DeviceArray<uint32_t> in(Pairs(ToRegisters(matrix, 8, 8, SlotOf8x8))), out(32);
  ASSERT_EQ(ProbeTranspose(in.data(), out.data()), cudaSuccess);
  const std::vector<uint32_t> registers = out.Read();
  for (int row = 0; row < 8; ++row) {
    for (int col = 0; col < 8; ++col) {
      const RegisterSlot at = SlotOf8x8(col, row);
      EXPECT_EQ(static_cast<uint16_t>(registers[at.lane] >> 16 * at.value), matrix[row * 8 + col]);
    }
  }
}

TEST(Emulator, PermutesBytesAndRepeatsTheirSigns) {
  std::vector<uint32_t> in(96);
  for (int lane = 0; lane < 32; ++lane) {
    in[lane] = 0x83027F80u;
    in[32 + lane] = 0x44FF0690u;
    in[64 + lane] = 0x3210u;
  }
  in[64 + 1] = 0x7654u;
  in[64 + 2] = 0x9180u;  // signs of bytes 1 and 0 above them
  in[64 + 3] = 0xFEDCu;
  const DeviceArray<uint32_t> device_in(in), out(32);
  ASSERT_EQ(ProbeBytePermute(device_in.data(), out.data()), cudaSuccess);
  const std::vector<uint32_t> result = out.Read();
  EXPECT_EQ(result[0], 0x83027F80u);
  EXPECT_EQ(result[1], 0x44FF0690u);
  EXPECT_EQ(result[2], 0x007FFF80u);
  EXPECT_EQ(result[3], 0x00FF00FFu);
}

TEST(Emulator, TakesTheLargerAndNoNan) {
  std::vector<float> in(64, 2);
  in[0] = -3;
  in[1] = 5;
  in[2] = std::numeric_limits<float>::quiet_NaN();
  in[35] = in[2];
  const DeviceArray<float> device_in(in), out(32);
  ASSERT_EQ(ProbeMax(device_in.data(), out.data()), cudaSuccess);
  const std::vector<float> result = out.Read();
  EXPECT_THAT(std::vector<float>(result.begin(), result.begin() + 4),
              testing::ElementsAre(2, 5, 2, 2));
}

// In any order, and no addition lost: what lanes saw before theirs, and theirs, chain up to the
// sum.
TEST(Emulator, AddsAtomicallyInSharedMemory) {
  std::vector<uint32_t> in(32);
  for (uint32_t lane = 0; lane < 32; ++lane) in[lane] = 1u << (lane / 8) | 0x40000000u;
  const DeviceArray<uint32_t> device_in(in), out(64);
  ASSERT_EQ(ProbeAtomicAddShared(device_in.data(), out.data()), cudaSuccess);
  const std::vector<uint32_t> result = out.Read();
  for (uint32_t counter = 0; counter < 8; ++counter) {
    const uint32_t sum = in[0] + in[8] + in[16] + in[24];
    std::vector<uint32_t> reached = {0}, before;
    for (uint32_t lane = counter; lane < 32; lane += 8) {
      EXPECT_EQ(result[lane], sum);
      before.push_back(result[32 + lane]);
      reached.push_back(result[32 + lane] + in[lane]);
    }
    before.push_back(sum);
    EXPECT_THAT(before, testing::UnorderedElementsAreArray(reached)) << counter;
  }
}

emulator::Counts CountsOf(cudaError_t error) {
  EXPECT_EQ(error, cudaSuccess) << TheGpu().TakeFault();
  const emulator::Counts counts = TheGpu().counts();
  TheGpu().ResetCounts();
  return counts;
}

TEST(Counters, CountSectorsOfAWarpsRead) {
  const DeviceArray<uint32_t> in(std::vector<uint32_t>(4096, 1)), out(128);
  TheGpu().ResetCounts();
  struct {
    int stride;
    uint64_t sectors, bytes;
  } const cases[] = {{1, 4, 128}, {2, 8, 128}, {8, 32, 128}, {16, 32, 128}, {0, 1, 4}};
  for (const auto& c : cases) {
    const emulator::Counts counts = CountsOf(ProbeRead4(in.data(), out.data(), c.stride));
    EXPECT_EQ(counts.global_read_sectors, c.sectors) << "stride " << c.stride;
    EXPECT_EQ(counts.global_read_bytes, c.bytes);
    EXPECT_EQ(counts.global_write_sectors, 4u);
    EXPECT_EQ(counts.global_write_bytes, 128u);
  }
  EXPECT_EQ(CountsOf(ProbeRead16(in.data(), out.data(), 4)).global_read_sectors, 16u);
  EXPECT_EQ(CountsOf(ProbeRead16(in.data() + 4, out.data(), 4)).global_read_sectors,
            17u);  // 16 bytes off a sector
  EXPECT_DOUBLE_EQ(CountsOf(ProbeRead16(in.data(), out.data(), 4)).GlobalExcess(), 1.0);
}

TEST(Counters, CountBankConflicts) {
  const DeviceArray<uint32_t> in(std::vector<uint32_t>(128, 1)), out(128);
  TheGpu().ResetCounts();
  // Turns that come on top of the first, of a write and a read each: words a bank holds, less one.
  EXPECT_EQ(CountsOf(ProbeShared4(out.data(), 1)).bank_conflicts, 0u);
  EXPECT_EQ(CountsOf(ProbeShared4(out.data(), 2)).bank_conflicts, 2u * 1);
  EXPECT_EQ(CountsOf(ProbeShared4(out.data(), 32)).bank_conflicts, 2u * 31);
  EXPECT_EQ(CountsOf(ProbeShared4(out.data(), 33)).bank_conflicts, 0u);
  // 8 bytes a lane: sixteen lanes a turn.
  EXPECT_EQ(CountsOf(ProbeShared8(in.data(), out.data(), 2)).bank_conflicts, 0u);
  EXPECT_EQ(CountsOf(ProbeShared8(in.data(), out.data(), 4)).bank_conflicts, 2u * 2);
  // 16 bytes a lane: eight lanes a turn.
  EXPECT_EQ(CountsOf(ProbeShared16(in.data(), out.data(), 4)).bank_conflicts, 0u);
  EXPECT_EQ(CountsOf(ProbeShared16(in.data(), out.data(), 32)).bank_conflicts, 2u * 4 * 7);
  EXPECT_EQ(CountsOf(ProbeShared16(in.data(), out.data(), 36)).bank_conflicts, 0u);
}

TEST(Counters, CountBytesInFlight) {
  const DeviceArray<uint32_t> in(std::vector<uint32_t>(128, 1)), out(128);
  TheGpu().ResetCounts();
  EXPECT_EQ(CountsOf(ProbeShared16(in.data(), out.data(), 4)).bytes_in_flight, 512u);
}

}  // namespace
}  // namespace nibble::cuda
