// Rope frequencies against values worked out by hand from the definitions.
#include "engine/model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.rotary_dim = 8;
  config.rope_base = 10000.0f;
  return config;
}

TEST(RopeTableTest, PlainFrequenciesArePowersOfTheBase) {
  const std::vector<double> f = RopeFrequencies(Config());
  ASSERT_EQ(f.size(), 4u);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  EXPECT_NEAR(f[1], 0.1, 1e-15);
  EXPECT_NEAR(f[2], 0.01, 1e-15);
  EXPECT_NEAR(f[3], 0.001, 1e-15);
}

TEST(RopeTableTest, LinearScalingDividesEvery) {
  ModelConfig config = Config();
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_factor = 4.0f;
  EXPECT_NEAR(RopeFrequencies(config)[0], 0.25, 1e-15);
  EXPECT_NEAR(RopeFrequencies(config)[3], 0.00025, 1e-15);
}

// Llama 3.1: base 500000, factor 8, low 1, high 4, original context 8192. Wavelengths under 2048
// stay, over 8192 are divided by 8, between they blend.
TEST(RopeTableTest, Llama3ScalingKeepsFastBlendsMiddleDividesSlow) {
  ModelConfig config = Config();
  config.rotary_dim = 128;
  config.rope_base = 500000.0f;
  config.rope_scaling = RopeScaling::kLlama3;
  config.rope_factor = 8.0f;
  config.rope_low_freq_factor = 1.0f;
  config.rope_high_freq_factor = 4.0f;
  config.rope_original_context = 8192;
  const std::vector<double> f = RopeFrequencies(config);
  const auto plain = [](int i) { return std::pow(500000.0, -i / 64.0); };
  EXPECT_DOUBLE_EQ(f[0], plain(0));
  EXPECT_NEAR(f[28], plain(28), 1e-12) << "wavelength 1956";
  EXPECT_LT(f[29], plain(29)) << "wavelength 2402";
  EXPECT_GT(f[34], plain(34) / 8) << "wavelength 6697";
  EXPECT_NEAR(f[35], plain(35) / 8, 1e-12) << "wavelength 8220";
  EXPECT_NEAR(f[63], plain(63) / 8, 1e-15);
  for (int i = 1; i < 64; ++i) EXPECT_LT(f[i], f[i - 1]);
}

TEST(RopeTableTest, FactorsFromTheFileReplaceTheLlama3Formula) {
  ModelConfig config = Config();
  config.rope_scaling = RopeScaling::kLlama3;
  config.rope_factor = 8.0f;
  config.rope_original_context = 16;
  config.rope_freq_factors = {1, 2, 4, 8};
  const std::vector<double> f = RopeFrequencies(config);
  EXPECT_NEAR(f[0], 1.0, 1e-15);
  EXPECT_NEAR(f[3], 0.001 / 8, 1e-15);
}

TEST(RopeTableTest, TableHoldsCosineAndSineOfEachPair) {
  const std::vector<float> table = MakeRopeTable(Config(), 50);
  ASSERT_EQ(table.size(), 400u);
  for (int p : {0, 1, 49}) {
    for (int i = 0; i < 4; ++i) {
      const double angle = p * std::pow(10.0, -i);
      EXPECT_FLOAT_EQ(table[p * 8 + 2 * i], static_cast<float>(std::cos(angle)));
      EXPECT_FLOAT_EQ(table[p * 8 + 2 * i + 1], static_cast<float>(std::sin(angle)));
    }
  }
}

}  // namespace
}  // namespace nibble
