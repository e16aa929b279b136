// RoPE and the KV store on the emulator: against float64, for both layouts, partial rotation, and
// both types; nothing but the tokens' slots is written.
#include "kernels/cuda/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

constexpr int32_t kHeads = 3, kKvHeads = 2, kHeadDim = 64, kBlockSize = 16, kBlocks = 4;
constexpr int32_t kCols = (kHeads + 2 * kKvHeads) * kHeadDim, kMaxPosition = 40;
const std::vector<int32_t> kPositions = {0, 39, 7}, kSlots = {17, 63, 5};
constexpr uint16_t kUntouched = 0x1234;

std::vector<float> Angles(int32_t rotary_dim) {
  std::vector<float> angles;
  for (int p = 0; p < kMaxPosition; ++p) {
    for (int i = 0; i < rotary_dim / 2; ++i) {
      const double angle = p * std::pow(1e4, -2.0 * i / rotary_dim);
      angles.push_back(static_cast<float>(std::cos(angle)));
      angles.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return angles;
}

// The rows that the op must make of qkv, in float64.
std::vector<double> Rotated(std::vector<double> qkv, int32_t rotary_dim, bool half_layout) {
  const std::vector<float> angles = Angles(rotary_dim);
  for (size_t token = 0; token < kPositions.size(); ++token) {
    for (int head = 0; head < kHeads + kKvHeads; ++head) {
      for (int pair = 0; pair < rotary_dim / 2; ++pair) {
        double* x = qkv.data() + token * kCols + head * kHeadDim;
        double& a = x[half_layout ? pair : 2 * pair];
        double& b = x[half_layout ? pair + rotary_dim / 2 : 2 * pair + 1];
        const float* angle = &angles[kPositions[token] * rotary_dim + 2 * pair];
        std::tie(a, b) = std::pair(a * angle[0] - b * angle[1], b * angle[0] + a * angle[1]);
      }
    }
  }
  return qkv;
}

struct Result {
  std::vector<uint16_t> qkv, k, v;
};

Result RotateAndStore(DType dtype, DType cache, int32_t rotary_dim, bool half_layout,
                      const std::vector<uint16_t>& qkv) {
  const DeviceArray<uint16_t> device(qkv);
  const std::vector<uint16_t> untouched(kBlocks * kKvHeads * kBlockSize * kHeadDim, kUntouched);
  const DeviceArray<uint16_t> k(untouched), v(untouched);
  const DeviceArray<float> cos_sin(Angles(rotary_dim));
  const DeviceArray<int32_t> positions(kPositions), slots(kSlots);
  RopeStoreCall call{.dtype = dtype, .qkv = device.data(), .qkv_stride = kCols, .tokens = 3};
  call.num_heads = kHeads;
  call.num_kv_heads = kKvHeads;
  call.head_dim = kHeadDim;
  call.rotary_dim = rotary_dim;
  call.half_layout = half_layout;
  call.cos_sin = cos_sin.data();
  call.positions = positions.data();
  call.slots = slots.data();
  call.cache_dtype = cache;
  call.k = k.data();
  call.v = v.data();
  call.block_size = kBlockSize;
  EXPECT_EQ(LaunchRopeStore(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  return {device.Read(), k.Read(), v.Read()};
}

// The rows of k (or v) that the tokens' slots hold; what is left must be untouched.
std::vector<double> Stored(DType cache, std::vector<uint16_t> layer) {
  std::vector<double> rows;
  for (const int32_t slot : kSlots) {
    for (int head = 0; head < kKvHeads; ++head) {
      const int at =
          ((slot / kBlockSize * kKvHeads + head) * kBlockSize + slot % kBlockSize) * kHeadDim;
      for (int i = 0; i < kHeadDim; ++i) {
        rows.push_back(ToFloat(cache, layer[at + i]));
        layer[at + i] = kUntouched;
      }
    }
  }
  EXPECT_THAT(layer, testing::Each(kUntouched));
  return rows;
}

std::vector<double> Columns(const std::vector<double>& qkv, int first_head, int num_heads) {
  std::vector<double> out;
  for (size_t token = 0; token < kPositions.size(); ++token) {
    const auto row = qkv.begin() + token * kCols + first_head * kHeadDim;
    out.insert(out.end(), row, row + num_heads * kHeadDim);
  }
  return out;
}

class RopeTest : public testing::TestWithParam<std::tuple<DType, DType, int32_t, bool>> {};

TEST_P(RopeTest, RotatesAndStoresAsFloat64Does) {
  const auto [dtype, cache, rotary_dim, half_layout] = GetParam();
  const std::vector<uint16_t> qkv = RandomHalves(dtype, 3 * kCols, 6);
  const Result got = RotateAndStore(dtype, cache, rotary_dim, half_layout, qkv);
  const std::vector<double> expected = Rotated(ToDoubles(dtype, qkv), rotary_dim, half_layout);
  EXPECT_LT(RelativeError(ToDoubles(dtype, got.qkv), expected), kTolerance);
  EXPECT_LT(RelativeError(Stored(cache, got.k), Columns(expected, kHeads, kKvHeads)), kTolerance);
  EXPECT_LT(RelativeError(Stored(cache, got.v), Columns(expected, kHeads + kKvHeads, kKvHeads)),
            kTolerance);
  for (int i = 0; i < kCols; ++i) {  // v, and whatever is past rotary_dim, passes through
    if (i >= (kHeads + kKvHeads) * kHeadDim || i % kHeadDim >= rotary_dim) {
      ASSERT_EQ(got.qkv[i], qkv[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, RopeTest,
                         testing::Combine(testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(64, 32, 0), testing::Bool()));

TEST(Rope, RefusesWhatItCannotRotate) {
  const auto error = [](auto change) {
    RopeStoreCall call{
        .tokens = 1, .num_heads = 1, .num_kv_heads = 1, .head_dim = 64, .block_size = 16};
    change(call);
    return LaunchRopeStore(call, nullptr);
  };
  EXPECT_EQ(error([](RopeStoreCall& c) { c.rotary_dim = 66; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](RopeStoreCall& c) { c.rotary_dim = 7; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](RopeStoreCall& c) { c.tokens = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](RopeStoreCall& c) { c.cache_dtype = DType::kI8; }), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda
