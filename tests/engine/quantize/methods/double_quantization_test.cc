#include "engine/quantize/methods/double_quantization.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace nibble::quantize {
namespace {

TEST(DynamicMapTest, HasBitsandbytesValues) {
  const std::vector<float>& map = DynamicMap();
  ASSERT_EQ(map.size(), 256u);
  EXPECT_TRUE(std::is_sorted(map.begin(), map.end()));
  EXPECT_EQ(std::adjacent_find(map.begin(), map.end()), map.end());  // no value twice
  EXPECT_EQ(map.back(), 1.0f);
  EXPECT_FLOAT_EQ(map[0], -0.99296875f);
  EXPECT_FLOAT_EQ(map[254], 0.99296875f);
  EXPECT_FLOAT_EQ(map[253], 0.97890625f);
  EXPECT_EQ(map[127], 0.0f);
  EXPECT_FLOAT_EQ(map[128], 5.5e-7f);
  EXPECT_FLOAT_EQ(map[129], 3.25e-6f);
  EXPECT_FLOAT_EQ(map[130], 7.75e-6f);
}

TEST(DoubleQuantizationTest, RestoresBlockMaximaToAPercent) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.05f, 0.01f);
  std::vector<float> scales(1000);
  for (float& scale : scales) scale = std::fabs(normal(random));
  const NestedScales nested = QuantizeScales(scales);
  EXPECT_EQ(nested.codes.size(), 1000u);
  EXPECT_EQ(nested.nested.size(), 4u);  // 256 + 256 + 256 + 232
  const std::vector<float> restored = RestoreScales(nested);
  for (size_t i = 0; i < scales.size(); ++i) {
    // Half the map's widest step, 0.9 / 64, of the block's own range.
    EXPECT_NEAR(restored[i], scales[i], 0.0071f * nested.nested[i / 256]);
  }
}

TEST(DoubleQuantizationTest, EqualScalesAreExactAndNoneIsNone) {
  EXPECT_EQ(RestoreScales(QuantizeScales(std::vector<float>(300, 0.25f))),
            std::vector<float>(300, 0.25f));
  EXPECT_TRUE(RestoreScales(QuantizeScales({})).empty());
}

}  // namespace
}  // namespace nibble::quantize
