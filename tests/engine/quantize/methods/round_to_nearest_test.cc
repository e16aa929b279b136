#include "engine/quantize/methods/round_to_nearest.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

struct Figure {
  const char* scheme;
  double normal, heavy;  // dB, measured with independent implementations on 512 x 4096
  double normal_near = 0.1, heavy_near = 0.1;
};

// A scale over many elements hangs on the largest one that was drawn, so those figures vary with
// the data: by up to 0.3 dB over the whole normal matrix, by decibels under heavy tails.
const Figure kFigures[] = {
    {"int8-sym-tensor", 38.85, 25.03, 1.0, 5.0},
    {"int8-sym-channel", 41.27, 33.97, 0.1, 0.5},
    {"int8-sym-g128", 43.80, 40.43},
    {"int4-sym-tensor", 13.68, 2.01, 1.0, 2.5},
    {"int4-sym-channel", 16.09, 9.02, 0.1, 0.3},
    {"int4-sym-g128", 18.62, 15.30},
    {"int4-sym-g64", 19.37, 16.72},
    {"int4-sym-g32", 20.27, 18.25},
    {"int4-asym-g128", 19.96, 17.51},
    {"int4-asym-g64", 20.81, 19.01},
    {"int4-asym-g32", 21.86, 20.65},
    {"int4-full-g128-mse", 19.94, 16.63},
    {"int4-full-g64-mse", 20.48, 17.77},
    {"nf4-b64", 20.73, 19.61},
    {"nf4-b64-dq", 20.73, 19.59},
    {"nf4-b128", 20.40, 18.58},
    {"fp4-b64", 18.27, 16.26},
    {"e4m3-tensor", 31.55, 31.54},
    {"e4m3-channel", 31.55, 31.61},
    {"e4m3-block", 31.56, 31.57},
    {"e5m2-tensor", 25.57, 25.56},
};

class RoundTripTest : public ::testing::TestWithParam<Figure> {
 protected:
  static double Decibels(const MatrixF& weight, const char* name) {
    return SignalToNoise(weight, Dequantize(RoundToNearest(weight, *ParseScheme(name), 2)));
  }
};

TEST_P(RoundTripTest, IsAsGoodAsTheIndependentFigures) {
  const Figure& figure = GetParam();
  const double normal = Decibels(testing::NormalWeights(512, 4096, 1), figure.scheme);
  const double heavy = Decibels(testing::HeavyTailedWeights(512, 4096, 2), figure.scheme);
  std::printf("%s: normal %.2f dB (%.2f), heavy-tailed %.2f dB (%.2f)\n", figure.scheme, normal,
              figure.normal, heavy, figure.heavy);
  EXPECT_NEAR(normal, figure.normal, figure.normal_near);
  EXPECT_NEAR(heavy, figure.heavy, figure.heavy_near);
}

INSTANTIATE_TEST_SUITE_P(Schemes, RoundTripTest, ::testing::ValuesIn(kFigures));

// The definition, tile by tile in f64: s = max|w| / levels, s round(w / s). Where one drawn value
// sets the scale of many, this says what the figures above leave open.
double DefinitionDecibels(const MatrixF& weight, double levels, int64_t rows, int64_t cols) {
  double signal = 0, noise = 0;
  for (int64_t n = 0; n < weight.rows(); n += rows) {
    for (int64_t k = 0; k < weight.cols(); k += cols) {
      const Eigen::MatrixXd tile = weight.block(n, k, rows, cols).cast<double>();
      const double scale = tile.cwiseAbs().maxCoeff() / levels;
      signal += tile.squaredNorm();
      noise += (tile - scale * (tile / scale).array().round().matrix()).squaredNorm();
    }
  }
  return 10 * std::log10(signal / noise);
}

TEST(RoundToNearestTest, SymmetricCodesAreAsTheyAreDefinedByTensorRowAndGroup) {
  const struct {
    const char* scheme;
    double levels;
    int64_t rows, cols;
  } cases[] = {{"int8-sym-tensor", 127, 512, 4096}, {"int8-sym-channel", 127, 1, 4096},
               {"int8-sym-g128", 127, 1, 128},      {"int4-sym-tensor", 7, 512, 4096},
               {"int4-sym-channel", 7, 1, 4096},    {"int4-sym-g128", 7, 1, 128}};
  const MatrixF weight = testing::HeavyTailedWeights(512, 4096, 2);
  for (const auto& c : cases) {
    const MatrixF values = Dequantize(RoundToNearest(weight, *ParseScheme(c.scheme), 2));
    // Scales of 4 bits are f16.
    EXPECT_NEAR(SignalToNoise(weight, values), DefinitionDecibels(weight, c.levels, c.rows, c.cols),
                0.01)
        << c.scheme;
  }
}

TEST(RoundToNearestTest, IsTheSameOnAnyNumberOfThreads) {
  const MatrixF weight = testing::NormalWeights(100, 512, 3);
  for (const char* name : {"int4-full-g128-mse", "e4m3-block", "nf4-b64-dq"}) {
    const QuantizedWeight one = RoundToNearest(weight, *ParseScheme(name), 1);
    const QuantizedWeight five = RoundToNearest(weight, *ParseScheme(name), 5);
    EXPECT_EQ(one.codes, five.codes);
    EXPECT_EQ(Dequantize(one), Dequantize(five));
  }
}

// A large element spoils what shares its scale, and nothing else.
TEST(RoundToNearestTest, AnOutlierSpoilsItsTileOnly) {
  MatrixF weight = testing::NormalWeights(256, 256, 4);
  weight(3, 5) = 10;
  const auto spoiled = [&](const char* name) {
    const MatrixF values = Dequantize(RoundToNearest(weight, *ParseScheme(name), 1));
    int64_t zeros = 0;
    for (int64_t i = 0; i < values.size(); ++i) zeros += values.data()[i] == 0;
    return zeros;
  };
  EXPECT_GT(spoiled("int4-sym-tensor"), 65000);
  EXPECT_LT(spoiled("int4-sym-channel"), 256 * 256 / 5);
  EXPECT_LT(spoiled("int4-sym-g128"), 256 * 256 / 5);
}

// What a layout with rows in another order starts from.
TEST(RoundToNearest, DoubleQuantizationKeepsTheExactMaxima) {
  const MatrixF weight = testing::NormalWeights(8, 256, 4);
  const QuantizedWeight twice = RoundToNearest(weight, *ParseScheme("nf4-b64-dq"), 1);
  const QuantizedWeight once = RoundToNearest(weight, *ParseScheme("nf4-b64"), 1);
  ASSERT_EQ(twice.maxima.size(), once.params.size());
  EXPECT_TRUE(once.maxima.empty());
  for (size_t i = 0; i < once.params.size(); ++i) {
    EXPECT_EQ(twice.maxima[i], once.params[i].scale);
  }
  EXPECT_EQ(twice.codes, once.codes);
}

}  // namespace
}  // namespace nibble::quantize
