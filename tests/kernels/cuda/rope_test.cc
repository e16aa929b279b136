// RoPE and the KV store on the emulator: against float64, for both layouts, partial rotation, and
// both types; nothing but the tokens' slots is written.
#include "kernels/cuda/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cpu/kv_codec_inl.h"
#include "kernels/cuda/kv_layout.h"
#include "kernels/fp8.h"
#include "kernels/ops.h"
#include "measured_error.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

constexpr int32_t kHeads = 3, kKvHeads = 2, kHeadDim = 64, kBlockSize = 16, kBlocks = 4;
constexpr int32_t kCols = (kHeads + 2 * kKvHeads) * kHeadDim, kMaxPosition = 40;
const std::vector<int32_t> kPositions = {0, 39, 7}, kSlots = {17, 63, 5};
constexpr uint8_t kUntouched = 0x12;

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
  std::vector<uint16_t> qkv;
  std::vector<uint8_t> k, v;  // the cache's bytes
};

Result RotateAndStore(DType dtype, DType cache, int32_t rotary_dim, bool half_layout,
                      const std::vector<uint16_t>& qkv) {
  const DeviceArray<uint16_t> device(qkv);
  const std::vector<uint8_t> untouched(
      kBlocks * kKvHeads * KvHeadBytes(cache, kBlockSize, kHeadDim), kUntouched);
  const DeviceArray<uint8_t> k(untouched), v(untouched);
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

// A token's row of one kv head as it was stored.
struct StoredRow {
  std::vector<uint8_t> codes;
  float scale = 1;
};

// The rows of k (or v) that the tokens' slots hold; what is left must be untouched.
std::vector<StoredRow> StoredRows(DType cache, std::vector<uint8_t> layer) {
  std::vector<StoredRow> rows;
  const int64_t head_bytes = KvHeadBytes(cache, kBlockSize, kHeadDim);
  const int64_t row_bytes = kHeadDim * static_cast<int64_t>(SizeOf(cache));
  for (const int32_t slot : kSlots) {
    for (int head = 0; head < kKvHeads; ++head) {
      const auto block = layer.begin() + (slot / kBlockSize * kKvHeads + head) * head_bytes;
      const auto row = block + slot % kBlockSize * row_bytes;
      StoredRow stored{{row, row + row_bytes}};
      std::fill(row, row + row_bytes, kUntouched);
      if (KvHasScales(cache)) {
        const auto scale = block + kBlockSize * row_bytes + slot % kBlockSize * 4;
        std::memcpy(&stored.scale, &*scale, 4);
        std::fill(scale, scale + 4, kUntouched);
      }
      rows.push_back(stored);
    }
  }
  EXPECT_THAT(layer, testing::Each(kUntouched));
  return rows;
}

std::vector<double> Stored(DType cache, const std::vector<uint8_t>& layer) {
  std::vector<double> values;
  for (const StoredRow& row : StoredRows(cache, layer)) {
    for (int i = 0; i < kHeadDim; ++i) {
      if (cache == DType::kI8) {
        values.push_back(static_cast<int8_t>(row.codes[i]) * double{row.scale});
      } else if (cache == DType::kF8E4M3) {
        values.push_back(E4m3ToF32(row.codes[i]) * double{row.scale});
      } else {
        values.push_back(
            ToFloat(cache, static_cast<uint16_t>(row.codes[2 * i] | row.codes[2 * i + 1] << 8)));
      }
    }
  }
  return values;
}

// Of the cache's own rounding: 1 / 254 of a row's largest value, or 2^-4 of a value, evenly spread.
double CacheTolerance(DType cache) {
  if (cache == DType::kI8) return 0.01;
  return cache == DType::kF8E4M3 ? 0.03 : kTolerance;
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
  EXPECT_LT(Measured("rope_store", "q", dtype, RelativeError(ToDoubles(dtype, got.qkv), expected)),
            kTolerance);
  EXPECT_LT(Measured("rope_store", std::string(TypeOf(cache)) + " cache", dtype,
                     RelativeError(Stored(cache, got.k), Columns(expected, kHeads, kKvHeads))),
            CacheTolerance(cache));
  EXPECT_LT(RelativeError(Stored(cache, got.v), Columns(expected, kHeads + kKvHeads, kKvHeads)),
            CacheTolerance(cache));
  for (int i = 0; i < kCols; ++i) {  // v, and whatever is past rotary_dim, passes through
    if (i >= (kHeads + kKvHeads) * kHeadDim || i % kHeadDim >= rotary_dim) {
      ASSERT_EQ(got.qkv[i], qkv[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, RopeTest,
                         testing::Combine(testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(DType::kBf16, DType::kF16, DType::kI8,
                                                          DType::kF8E4M3),
                                          testing::Values(64, 32, 0), testing::Bool()));

// What the CPU backend's codec asks of its instruction set: nothing, to encode.
struct AnyIsa {
  using Reg = float;
};

// v is stored as it is: codes and scales must be the CPU backend's, for rows of every magnitude and
// for those that have none.
template <class Codec>
void ExpectTheCodesOfTheCpu(DType cache) {
  std::vector<uint16_t> qkv = RandomHalves(DType::kBf16, 3 * kCols, 8);
  uint16_t* v = &qkv[(kHeads + kKvHeads) * kHeadDim];  // of the first token
  for (int i = 0; i < kHeadDim; ++i) v[i] = F32ToBf16(std::ldexp(1.0f + i, -i));
  std::fill(v + kHeadDim, v + 2 * kHeadDim, uint16_t{0});
  v[kCols] = F32ToBf16(std::numeric_limits<float>::infinity());
  v[kCols + kHeadDim] = 0x7FC0;  // NaN
  for (int i = 0; i < kHeadDim; ++i) v[2 * kCols + i] = F32ToBf16(1e-32f);
  const std::vector<StoredRow> rows =
      StoredRows(cache, RotateAndStore(DType::kBf16, cache, 64, false, qkv).v);
  for (size_t row = 0; row < rows.size(); ++row) {
    std::vector<float> x;
    for (int i = 0; i < kHeadDim; ++i)
      x.push_back(Bf16ToF32(v[row / kKvHeads * kCols + row % kKvHeads * kHeadDim + i]));
    const cpu::RowScale scale = cpu::ScaleOfRow(x.data(), kHeadDim, Codec::kTop);
    std::vector<typename Codec::Code> codes(kHeadDim, 0);
    if (scale.inverse != 0) Codec::Encode(x.data(), kHeadDim, scale.inverse, codes.data());
    EXPECT_EQ(rows[row].codes, std::vector<uint8_t>(codes.begin(), codes.end())) << row;
    const float unit = cache == DType::kI8 ? 1.0f : 0x1p-8f;  // the CPU's e4m3 reads as 2^-8 of it
    EXPECT_TRUE(rows[row].scale == scale.scale * unit ||
                (std::isnan(rows[row].scale) && std::isnan(scale.scale)))
        << row << ": " << rows[row].scale << " and " << scale.scale * unit;
  }
}

TEST(Rope, StoresTheCodesThatTheCpuStores) {
  ExpectTheCodesOfTheCpu<cpu::I8Codec<AnyIsa>>(DType::kI8);
  ExpectTheCodesOfTheCpu<cpu::E4m3Codec<AnyIsa>>(DType::kF8E4M3);
}

TEST(Rope, LaysOutHeadBlocksOfTheSizeThatOpsSay) {
  for (const int32_t dim : {32, 64, 128}) {
    EXPECT_EQ(HeadBlockBytes<false>(16, dim), KvHeadBytes(DType::kBf16, 16, dim));
    EXPECT_EQ(HeadBlockBytes<true>(16, dim), KvHeadBytes(DType::kI8, 16, dim));
    EXPECT_EQ(HeadBlockBytes<true>(16, dim), KvHeadBytes(DType::kF8E4M3, 16, dim));
  }
}

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
  EXPECT_EQ(error([](RopeStoreCall& c) { c.cache_dtype = DType::kI32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](RopeStoreCall& c) {
              c.cache_dtype = DType::kI8;
              c.block_size = 6;
            }),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda
