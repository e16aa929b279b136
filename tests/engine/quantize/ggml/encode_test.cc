#include "engine/quantize/ggml/encode.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "engine/weights/ggml_types.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

constexpr int32_t kRows = 512;
constexpr int32_t kCols = 4096;
constexpr uint64_t kSeed = 20261125;

// Of a seeded 64-bit Mersenne twister, not of std's distributions, which differ between libraries.
class Generator {
 public:
  double Uniform() { return (static_cast<double>(bits_() >> 11) + 0.5) * 0x1p-53; }
  double Normal() {  // Box and Muller
    return std::sqrt(-2 * std::log(Uniform())) * std::cos(2 * M_PI * Uniform());
  }
  double StudentT5() {
    double chi = 0;
    for (int i = 0; i < 5; ++i) chi += std::pow(Normal(), 2);
    return Normal() / std::sqrt(chi / 5);
  }

 private:
  std::mt19937_64 bits_{kSeed};
};

// 512 x 4096 of N(0, 0.02^2), or of 0.02 t(5).
std::vector<float> Data(bool heavy_tailed) {
  Generator generator;
  std::vector<float> x(size_t{kRows} * kCols);
  for (float& value : x) {
    value = static_cast<float>(0.02 * (heavy_tailed ? generator.StudentT5() : generator.Normal()));
  }
  return x;
}

std::vector<float> RoundTrip(GgmlType type, const std::vector<float>& x,
                             absl::Span<const float> importance) {
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  std::vector<uint8_t> bytes(kCols / info.block_elements * info.block_bytes);
  std::vector<float> back(x.size());
  for (size_t at = 0; at < x.size(); at += kCols) {
    EncodeRow(type, absl::MakeConstSpan(x).subspan(at, kCols), importance, bytes.data());
    EXPECT_TRUE(CheckFinite(type, bytes).ok());
    DequantizeBlocks(type, bytes, kCols, back.data() + at);
  }
  return back;
}

// 10 log10 of signal over noise, both weighted by the column's importance.
double Sqnr(const std::vector<float>& x, const std::vector<float>& back,
            absl::Span<const float> importance = {}) {
  double signal = 0, noise = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double w = importance.empty() ? 1.0 : importance[i % kCols];
    signal += w * x[i] * x[i];
    noise += w * std::pow(static_cast<double>(x[i]) - back[i], 2);
  }
  return 10 * std::log10(signal / noise);
}

struct Bar {
  GgmlType type;
  double gauss, t5;  // dB that ggml's reference quantizer reaches on such data
};

class EncoderBars : public ::testing::TestWithParam<Bar> {};

TEST_P(EncoderBars, AreReached) {
  const std::vector<float> gauss = Data(false), t5 = Data(true);
  const double on_gauss = Sqnr(gauss, RoundTrip(GetParam().type, gauss, {}));
  const double on_t5 = Sqnr(t5, RoundTrip(GetParam().type, t5, {}));
  std::printf("%-7s Gauss %.2f dB (bar %.2f), t5 %.2f dB (bar %.2f), seed %llu\n",
              TypeInfo(static_cast<int32_t>(GetParam().type)).name.c_str(), on_gauss,
              GetParam().gauss, on_t5, GetParam().t5, static_cast<unsigned long long>(kSeed));
  EXPECT_GE(on_gauss, GetParam().gauss - 0.05);
  EXPECT_GE(on_t5, GetParam().t5 - 0.05);
}

TEST_P(EncoderBars, ImportantColumnsAreKeptBetter) {
  if (GetParam().type == GgmlType::kQ8_0) return;  // searches nothing
  std::vector<float> x = Data(false);
  x.resize(size_t{32} * kCols);
  std::vector<float> importance(kCols);
  for (int32_t k = 0; k < kCols; ++k) importance[k] = k % 7 == 0 ? 3.0f : 0.03f;
  const double with = Sqnr(x, RoundTrip(GetParam().type, x, importance), importance);
  const double without = Sqnr(x, RoundTrip(GetParam().type, x, {}), importance);
  EXPECT_GT(with, without + (GetParam().type == GgmlType::kMXFP4 ? 0.05 : 0.2));
}

TEST_P(EncoderBars, OddBlocksAreKeptFiniteAndNearlyRight) {
  const int32_t n = TypeInfo(static_cast<int32_t>(GetParam().type)).block_elements;
  const float extremes[] = {0.0f, 1e-30f, 1e-8f, 1.0f, -1.0f, 60000.0f};
  for (const float value : extremes) {
    for (const bool spike : {false, true}) {
      std::vector<float> x(n, spike ? 0.0f : value), back(n);
      x[n / 3] = value;
      std::vector<uint8_t> bytes(TypeInfo(static_cast<int32_t>(GetParam().type)).block_bytes);
      EncodeRow(GetParam().type, x, {}, bytes.data());
      ASSERT_TRUE(CheckFinite(GetParam().type, bytes).ok()) << value;
      DequantizeBlocks(GetParam().type, bytes, n, back.data());
      for (int32_t i = 0; i < n; ++i) {
        EXPECT_NEAR(back[i], x[i], 0.2f * std::fabs(value) + 1e-6f) << value << " at " << i;
      }
    }
  }
}

TEST_P(EncoderBars, AllZeroImportanceCountsAsNone) {
  std::vector<float> x = Data(false);
  x.resize(kCols);
  EXPECT_EQ(RoundTrip(GetParam().type, x, std::vector<float>(kCols, 0.0f)),
            RoundTrip(GetParam().type, x, {}));
}

// The bars: the table of ggml's reference quantizers, no importance, on data of this kind.
INSTANTIATE_TEST_SUITE_P(
    AllTypes, EncoderBars,
    ::testing::Values(Bar{GgmlType::kQ8_0, 45.44, 43.40}, Bar{GgmlType::kQ6_K, 35.02, 33.37},
                      Bar{GgmlType::kQ5_K, 28.85, 27.53}, Bar{GgmlType::kQ5_1, 28.44, 27.23},
                      Bar{GgmlType::kQ5_0, 27.40, 25.38}, Bar{GgmlType::kQ4_K, 22.93, 21.62},
                      Bar{GgmlType::kIQ4_NL, 22.37, 21.05}, Bar{GgmlType::kIQ4_XS, 22.30, 20.97},
                      Bar{GgmlType::kQ4_1, 22.14, 20.92}, Bar{GgmlType::kQ4_0, 21.32, 19.35},
                      Bar{GgmlType::kMXFP4, 18.86, 17.98}, Bar{GgmlType::kQ3_K, 16.43, 15.07},
                      Bar{GgmlType::kQ2_K, 10.56, 9.55}),
    [](const auto& info) { return TypeInfo(static_cast<int32_t>(info.param.type)).name; });

TEST(EncodeRow, PlainTypesRoundToNearest) {
  const std::vector<float> x = {1.0f + 0x1p-11f, -1.0f - 0x1p-8f * 1.5f, 1e9f, 0.0f};
  uint8_t bytes[16];
  float back[4];
  EncodeRow(GgmlType::kF16, x, {}, bytes);
  DequantizeBlocks(GgmlType::kF16, absl::MakeConstSpan(bytes, 8), 4, back);
  EXPECT_EQ(back[0], 1.0f) << "a tie goes to even";
  EXPECT_EQ(back[2], 65504.0f) << "saturates";
  EncodeRow(GgmlType::kBF16, x, {}, bytes);
  DequantizeBlocks(GgmlType::kBF16, absl::MakeConstSpan(bytes, 8), 4, back);
  EXPECT_EQ(back[1], -1.0f - 0x1p-7f);
  EncodeRow(GgmlType::kF32, x, {}, bytes);
  EXPECT_EQ(std::memcmp(bytes, x.data(), 16), 0);
}

TEST(EncodeRow, TypesWithoutAnEncoderAreKnown) {
  EXPECT_FALSE(CanEncode(GgmlType::kNVFP4));
  EXPECT_FALSE(CanEncode(static_cast<GgmlType>(16)));
  EXPECT_TRUE(CanEncode(GgmlType::kQ2_K));
}

}  // namespace
}  // namespace nibble
