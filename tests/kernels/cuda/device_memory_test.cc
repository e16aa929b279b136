// The memory plan on the emulator: that what is planned for a matrix is what packing it takes, and
// what is said when a device is too small.
#include "kernels/cuda/device_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "emulator/gpu.h"
#include "kernels/cuda/pack_matrix.h"
#include "kernels/half.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using quant::Format;
using quant::RandomSpec;
using testing::HasSubstr;

PlannedMatrix PlanOf(const RandomSpec& spec) {
  PlannedMatrix plan;
  plan.format = spec.format;
  plan.rows = spec.rows;
  plan.cols = spec.cols;
  plan.group = spec.group;
  plan.offsets = spec.offsets;
  plan.f32_scales = !spec.f16_scales;
  return plan;
}

TEST(PlannedBytes, AreWhatPackingTakes) {
  const RandomSpec specs[] = {
      {.rows = 130, .cols = 256},
      {.rows = 130, .cols = 256, .offsets = true},
      {.rows = 130, .cols = 256, .group = 64, .f16_scales = false},
      {.rows = 130, .cols = 256, .group = 128, .offsets = true},
      {.rows = 130, .cols = 256, .group = 256},
      {.rows = 130, .cols = 256, .group = 16, .offsets = true},
      {.format = Format::kLut4, .rows = 130, .cols = 256},
      {.format = Format::kQ4K, .rows = 130, .cols = 256},
      {.format = Format::kQ5K, .rows = 130, .cols = 256},
      {.format = Format::kQ6K, .rows = 130, .cols = 256},
      {.format = Format::kInt5Affine, .rows = 130, .cols = 256, .offsets = true},
      {.format = Format::kInt8, .rows = 130, .cols = 256},
      {.format = Format::kFp8, .rows = 130, .cols = 256, .group = 256},
      {.format = Format::kBf16, .rows = 130, .cols = 256, .group = 0},
      {.format = Format::kF32, .rows = 130, .cols = 256, .group = 0},
  };
  for (const RandomSpec& spec : specs) {
    const HostMatrix packed = PackMatrix(quant::RandomMatrix(spec, 1)).value();
    EXPECT_EQ(PlannedBytes(PlanOf(spec)), StoredBytes(packed.stored))
        << quant::FormatName(spec.format) << " group " << spec.group << " offsets " << spec.offsets;
  }
}

TEST(PlannedBytes, OffsetsThatAreOneMultipleOfTheScalesAreKeptByBytesOnly) {
  for (const int32_t group : {32, 16}) {
    const RandomSpec spec{.rows = 64, .cols = 64, .group = group, .offsets = true};
    quant::Matrix matrix = quant::RandomMatrix(spec, 1);
    for (size_t i = 0; i < matrix.scales.size(); ++i) matrix.offsets[i] = -8 * matrix.scales[i];
    PlannedMatrix plan = PlanOf(spec);
    plan.zero_point = true;
    EXPECT_EQ(PlannedBytes(plan), StoredBytes(PackMatrix(matrix).value().stored)) << group;
  }
}

TEST(PlannedBytes, OfFp8InBlocksAreAtMostAScaleARowMore) {
  const RandomSpec spec{
      .format = Format::kFp8, .rows = 130, .cols = 256, .group = 128, .row_group = 128};
  const int64_t stored = StoredBytes(PackMatrix(quant::RandomMatrix(spec, 1)).value().stored);
  EXPECT_GE(PlannedBytes(PlanOf(spec)), stored);
  EXPECT_LE(PlannedBytes(PlanOf(spec)), stored + 130 * 2 * 4);
}

TEST(PlannedBytes, OfFloatsThatHave16BitsAreHalf) {
  RandomSpec spec{.format = Format::kF32, .rows = 64, .cols = 64, .group = 0};
  quant::Matrix matrix = quant::RandomMatrix(spec, 1);
  for (size_t i = 0; i < matrix.codes.size(); i += 4) {
    float value;
    std::memcpy(&value, &matrix.codes[i], 4);
    value = F16ToF32(F32ToF16(value));
    std::memcpy(&matrix.codes[i], &value, 4);
  }
  PlannedMatrix plan = PlanOf(spec);
  plan.half_values = true;
  EXPECT_EQ(PlannedBytes(plan), StoredBytes(PackMatrix(matrix).value().stored));
}

class DeviceMemoryTest : public testing::Test {
 protected:
  ~DeviceMemoryTest() override { emulator::TheGpu().memory().SetLimit(0); }
  const size_t before_ = emulator::TheGpu().memory().live_bytes();
  std::unique_ptr<Device> device_ = Device::Open(0).value();
  DeviceMemory memory_{*device_};
};

TEST_F(DeviceMemoryTest, APlanFitsToTheByte) {
  const PlannedMatrix matrix = PlanOf({.format = Format::kQ4K, .rows = 128, .cols = 256});
  EXPECT_EQ(PlannedBytes(matrix), 128 * 256 * 6 / 8) << "6 bits a weight";
  MemoryPlan plan;
  plan.matrices = absl::MakeConstSpan(&matrix, 1);
  plan.weights = 100;
  plan.kv_cache = 1000;
  plan.activations = 10;
  const int64_t needed = PlannedBytes(matrix) + 1110 + 7;
  emulator::TheGpu().memory().SetLimit(before_ + needed);
  EXPECT_TRUE(memory_.CheckPlan(plan, 7).ok());
  const absl::Status status = memory_.CheckPlan(plan, 8);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("weights 24676 + KV cache 1000 + activations 10 + graphs 8 = 25694 bytes "
                        "needed, 25693 free of "));
}

TEST_F(DeviceMemoryTest, SaysWhatIsHeldWhenThereIsNoRoom) {
  emulator::TheGpu().memory().SetLimit(before_ + 10000);
  {
    const DeviceBuffer cache = memory_.Allocate(6000, "KV cache").value();
    const DeviceBuffer weights = memory_.Allocate(3000, "weights").value();
    const absl::Status status = memory_.Allocate(2000, "weights").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("memory of cuda:0 for weights: 2000 bytes needed, 1000 free of "));
    EXPECT_THAT(std::string(status.message()), HasSubstr("(held: KV cache 6000, weights 3000)"));
  }
  EXPECT_TRUE(memory_.Allocate(10000, "weights").ok()) << "all of it was given back";
}

}  // namespace
}  // namespace nibble::cuda
