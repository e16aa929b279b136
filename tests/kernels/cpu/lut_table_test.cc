#include "kernels/cpu/lut_table.h"

#include <array>
#include <cmath>

#include "gtest/gtest.h"

namespace nibble::cpu {
namespace {

// What the integer kernels take entry `i` for.
double AsRead(const LutTable& table, int i) {
  if (!table.two_planes) return static_cast<double>(table.factor) * (table.high[i] - 128);
  return static_cast<double>(table.factor) * (256 * (table.high[i] - 128) + table.low[i] - 128);
}

constexpr std::array<float, 16> kIq4Nl = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
constexpr std::array<float, 16> kE2m1 = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                         -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
// bitsandbytes' tables, as its quantizers store them.
constexpr std::array<float, 16> kNf4 = {-1.0f,
                                        -0.6961928009986877f,
                                        -0.5250730514526367f,
                                        -0.39491748809814453f,
                                        -0.28444138169288635f,
                                        -0.18477343022823334f,
                                        -0.09105003625154495f,
                                        0.0f,
                                        0.07958029955625534f,
                                        0.16093020141124725f,
                                        0.24611230194568634f,
                                        0.33791524171829224f,
                                        0.44070982933044434f,
                                        0.5626170039176941f,
                                        0.7229568362236023f,
                                        1.0f};
constexpr std::array<float, 16> kFp4 = {
    0.0f,  0.0052083333f,  0.6666667f,  1.0f,  0.3333333f,  0.5f,  0.1666667f,  0.25f,
    -0.0f, -0.0052083333f, -0.6666667f, -1.0f, -0.3333333f, -0.5f, -0.1666667f, -0.25f};

TEST(LutTableTest, MultiplesOfAPowerOfTwoAreExactInOnePlane) {
  for (const auto* values : {&kIq4Nl, &kE2m1}) {
    const LutTable table = MakeLutTable(*values);
    EXPECT_FALSE(table.two_planes);
    for (int i = 0; i < 16; ++i) {
      EXPECT_EQ(AsRead(table, i), (*values)[i]) << i;
      EXPECT_EQ(table.values[i], (*values)[i]) << i;
    }
  }
  EXPECT_EQ(MakeLutTable(kE2m1).factor, 0.5f);
}

TEST(LutTableTest, OtherTablesAreWithinAHundredThousandthOfTheLargestEntry) {
  for (const auto* values : {&kNf4, &kFp4}) {
    const LutTable table = MakeLutTable(*values);
    EXPECT_TRUE(table.two_planes);
    for (int i = 0; i < 16; ++i) {
      EXPECT_NEAR(AsRead(table, i), (*values)[i], 1.6e-5) << i;
      EXPECT_EQ(table.values[i], (*values)[i]) << i;
    }
  }
}

TEST(LutTableTest, ScaledTablesKeepTheirAccuracy) {
  for (const float factor : {0x1p-60f, 1e-6f, 3.0f, 1e20f}) {
    std::array<float, 16> values;
    for (int i = 0; i < 16; ++i) values[i] = factor * kNf4[i];
    const LutTable table = MakeLutTable(values);
    for (int i = 0; i < 16; ++i) EXPECT_NEAR(AsRead(table, i), values[i], 1.6e-5 * factor) << i;
  }
}

// One step past what a signed byte holds on either side.
TEST(LutTableTest, OneHundredTwentySevenIsTheLastWholeNumberOfOnePlane) {
  std::array<float, 16> values = {1, -127, 127};
  EXPECT_FALSE(MakeLutTable(values).two_planes);
  values[1] = -128;
  const LutTable table = MakeLutTable(values);
  EXPECT_TRUE(table.two_planes);
  EXPECT_EQ(table.high[1], 1);
  EXPECT_EQ(table.low[1], 1);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(AsRead(table, i), values[i], 1.6e-5 * 128);
}

TEST(LutTableTest, ATableOfZerosIsZeros) {
  const std::array<float, 16> values = {};
  const LutTable table = MakeLutTable(values);
  EXPECT_FALSE(table.two_planes);
  EXPECT_EQ(table.factor, 1);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(AsRead(table, i), 0);
}

}  // namespace
}  // namespace nibble::cpu
