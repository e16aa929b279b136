#include "engine/quantize/ggml/scale_search.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace nibble {
namespace {

constexpr int kN = 32;
constexpr Grid kFourBits = {.lo = -8, .hi = 7, .spread = 0.9f};

std::vector<float> Ones() { return std::vector<float>(kN, 1.0f); }

float ErrorOf(const std::vector<float>& x, const std::vector<float>& w, float scale,
              const std::vector<float>& values) {
  float error = 0;
  for (int i = 0; i < kN; ++i) error += w[i] * std::pow(scale * values[i] - x[i], 2.0f);
  return error;
}

TEST(ScaleSearch, NearestRoundsTiesToEven) {
  EXPECT_EQ(Nearest(2.5f), 2.0f);
  EXPECT_EQ(Nearest(3.5f), 4.0f);
  EXPECT_EQ(Nearest(-2.5f), -2.0f);
  EXPECT_EQ(Nearest(-2.51f), -3.0f);
}

TEST(ScaleSearch, ATableSnapsToTheNearerNeighbour) {
  const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                            1,    13,   25,  38,  53,  69,  89,  113};
  const Grid grid = {.lo = -127, .hi = 113, .table = table};
  const float y[8] = {-500, -116, -115, 0, -5, 7.5f, 100, 102};
  float values[8];
  SnapToGrid(grid, 1.0f, y, 8, values);
  const float expected[8] = {-127, -127, -104, 1, -10, 13, 89, 113};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(values[i], expected[i]) << y[i];
}

// Data that lie on a grid are found exactly, whichever sign their extreme has.
TEST(ScaleSearch, DataOfTheGridAreKept) {
  for (const float scale : {0.25f, -0.25f}) {
    std::vector<float> x(kN), values(kN);
    for (int i = 0; i < kN; ++i) x[i] = scale * static_cast<float>(i % 16 - 8);
    const float found = SearchScale(kFourBits, x.data(), Ones().data(), kN, values.data());
    EXPECT_FLOAT_EQ(found, scale);
    for (int i = 0; i < kN; ++i) EXPECT_EQ(values[i], static_cast<float>(i % 16 - 8));
  }
}

TEST(ScaleSearch, BeatsTheStepThatCoversEverything) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  double covered = 0, searched = 0;
  for (int block = 0; block < 200; ++block) {
    std::vector<float> x(kN), values(kN), w = Ones();
    float extreme = 0;
    for (float& value : x) {
      value = normal(random);
      if (std::fabs(value) > std::fabs(extreme)) extreme = value;
    }
    const float error =
        ErrorOf(x, w, SearchScale(kFourBits, x.data(), w.data(), kN, values.data()), values);
    const float plain = GridValues(kFourBits, extreme / -8, x.data(), w.data(), kN, values.data());
    EXPECT_LE(error, plain * 1.0001f);
    covered += plain;
    searched += error;
  }
  EXPECT_LT(searched, 0.9 * covered);
}

TEST(ScaleSearch, TheImportantElementsErrLess) {
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  double plain = 0, weighted = 0;
  for (int block = 0; block < 200; ++block) {
    std::vector<float> x(kN), w(kN), values(kN);
    for (int i = 0; i < kN; ++i) {
      x[i] = normal(random);
      w[i] = i % 4 == 0 ? 1.0f : 0.01f;
    }
    float scale = SearchScale(kFourBits, x.data(), w.data(), kN, values.data());
    weighted += ErrorOf(x, w, scale, values);
    scale = SearchScale(kFourBits, x.data(), Ones().data(), kN, values.data());
    plain += ErrorOf(x, w, scale, values);
  }
  EXPECT_LT(weighted, 0.9 * plain);
}

TEST(ScaleSearch, AffineDataAreKept) {
  std::vector<float> x(kN), codes(kN);
  for (int i = 0; i < kN; ++i) x[i] = 0.5f * static_cast<float>(i % 16) - 2.0f;
  const AffineFit fit = SearchAffine(15, false, x.data(), Ones().data(), kN);
  EXPECT_NEAR(fit.scale, 0.5f, 1e-5f);
  EXPECT_NEAR(fit.min, -2.0f, 1e-5f);
  EXPECT_LT(AffineCodes(15, fit.scale, fit.min, x.data(), Ones().data(), kN, codes.data()), 1e-8f);
}

TEST(ScaleSearch, ANegativeMinIsPromised) {
  std::vector<float> x(kN);
  for (int i = 0; i < kN; ++i) x[i] = 5.0f + 0.01f * static_cast<float>(i);
  EXPECT_GT(SearchAffine(15, false, x.data(), Ones().data(), kN).min, 4.0f);
  const AffineFit fit = SearchAffine(15, true, x.data(), Ones().data(), kN);
  EXPECT_LE(fit.min, 0.0f);
  EXPECT_GT(fit.scale, 0.0f);
}

TEST(ScaleSearch, NothingAndAConstantAreNoTrap) {
  std::vector<float> x(kN, 0.0f), values(kN, 7.0f);
  EXPECT_EQ(SearchScale(kFourBits, x.data(), Ones().data(), kN, values.data()), 0.0f);
  EXPECT_EQ(values[3], 0.0f);
  x.assign(kN, -3.0f);
  const AffineFit fit = SearchAffine(15, false, x.data(), Ones().data(), kN);
  EXPECT_EQ(fit.scale, 0.0f);
  EXPECT_EQ(fit.min, -3.0f);
  x.assign(kN, std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(SearchScale(kFourBits, x.data(), Ones().data(), kN, values.data()), 0.0f);
}

}  // namespace
}  // namespace nibble
