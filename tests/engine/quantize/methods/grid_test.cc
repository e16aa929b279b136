#include "engine/quantize/methods/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/half.h"

namespace nibble::quantize {
namespace {

Scheme Named(const char* name) { return *ParseScheme(name); }

// The worked example that is passed around, to the digits it is printed with.
TEST(GridTest, TheWorkedExampleOfAbsmaxInt8) {
  const std::vector<float> x = {0.3f, -0.5f, 0.1f, 0.8f, -0.2f};
  const Grid grid(Named("int8-sym-tensor"));
  const GroupParams params = grid.Fit(x);
  EXPECT_FLOAT_EQ(params.scale, 0.8f / 127);
  EXPECT_NEAR(params.scale, 0.006299, 5e-7);
  std::vector<int32_t> codes;
  float worst = 0;
  for (float value : x) {
    codes.push_back(grid.Code(value, params));
    worst = std::max(worst, std::fabs(value - grid.Nearest(value, params)));
  }
  EXPECT_EQ(codes, (std::vector<int32_t>{48, -79, 16, 127, -32}));
  EXPECT_LE(worst, params.scale / 2);
}

// Texts say -127 .. 127 in words, -2^(n-1) .. 2^(n-1) - 1 as the formula; both exist.
TEST(GridTest, RangesOfTheSymmetricGrids) {
  for (int bits = 2; bits <= 8; ++bits) {
    Scheme scheme = Named("int4-sym-tensor");
    scheme.bits = bits;
    const int32_t half = 1 << (bits - 1);
    EXPECT_EQ(Grid(scheme).min_code(), -(half - 1));
    EXPECT_EQ(Grid(scheme).max_code(), half - 1);
    scheme.grid = GridKind::kFullRange;
    EXPECT_EQ(Grid(scheme).min_code(), -half);
    EXPECT_EQ(Grid(scheme).max_code(), half - 1);
  }
  const Grid full(Named("int4-full-tensor"));
  const GroupParams params = full.ParamsFor({-1.0f, 1.0f});
  EXPECT_EQ(full.Code(-1.0f, params), -8);  // the code the restricted grid wastes
  EXPECT_EQ(full.Code(1.0f, params), 7);
  EXPECT_NEAR(full.Nearest(-1.0f, params), -1.0f, params.scale * 0.5001f);
}

// What is cast to an integer must be a number: callers say what went wrong, codes stay codes.
TEST(GridTest, NoNumberGetsACodeOfTheGrid) {
  for (const char* name : {"int4-sym-tensor", "int4-full-tensor", "int4-asym-tensor"}) {
    const Grid grid(Named(name));
    const GroupParams params = grid.ParamsFor({-1.0f, 1.0f});
    for (const float value : {NAN, INFINITY, -INFINITY}) {
      const int32_t code = grid.Code(value, params);
      EXPECT_GE(code, grid.min_code()) << name << " " << value;
      EXPECT_LE(code, grid.max_code()) << name << " " << value;
    }
  }
}

TEST(GridTest, ZeroIsAlwaysExact) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-3, 3);
  for (const char* name :
       {"int2-asym-tensor", "int3-asym-tensor", "int4-asym-tensor", "int8-asym-tensor",
        "int4-sym-tensor", "nf4-tensor", "fp4-tensor", "e4m3-tensor"}) {
    const Grid grid(Named(name));
    for (int i = 0; i < 200; ++i) {
      const float a = uniform(random), b = uniform(random);
      EXPECT_EQ(grid.Nearest(0.0f, grid.Fit(std::vector<float>{a, b})), 0.0f) << name;
    }
  }
}

// Values on one side of zero: a symmetric grid spends half its codes where there is nothing.
TEST(GridTest, AZeroPointHalvesTheErrorOfOneSidedData) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> x(1000);
  for (float& value : x) value = uniform(random);
  const auto error = [&](const char* name) {
    const Grid grid(Named(name));
    const GroupParams params = grid.Fit(x);
    double sum = 0;
    for (float value : x) sum += std::pow(value - grid.Nearest(value, params), 2);
    return sum;
  };
  EXPECT_NEAR(error("int4-sym-tensor") / error("int4-asym-tensor"), std::pow(15.0 / 7, 2), 0.4);
}

TEST(GridTest, CodesStayInRangeWhateverTheValue) {
  for (const char* name : {"int2-sym-tensor", "int4-full-tensor", "int4-asym-tensor", "nf4-tensor",
                           "fp4-tensor", "int8-asym-tensor"}) {
    const Grid grid(Named(name));
    const GroupParams params = grid.ParamsFor({-0.1f, 0.3f});
    for (float value : {-1e9f, -1.0f, -0.1f, 0.0f, 0.3f, 2.0f, 1e9f}) {
      EXPECT_GE(grid.Code(value, params), grid.min_code()) << name;
      EXPECT_LE(grid.Code(value, params), grid.max_code()) << name;
    }
  }
}

TEST(GridTest, TheNearestValueIsTaken) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  for (const char* name :
       {"int3-sym-tensor", "int4-full-tensor", "int4-asym-tensor", "nf4-tensor", "fp4-tensor"}) {
    const Grid grid(Named(name));
    const GroupParams params = grid.ParamsFor({-2.0f, 2.5f});
    for (int i = 0; i < 500; ++i) {
      const float value = normal(random);
      float least = INFINITY;
      for (int32_t code = grid.min_code(); code <= grid.max_code(); ++code) {
        least = std::min(least, std::fabs(value - grid.Value(code, params)));
      }
      EXPECT_FLOAT_EQ(std::fabs(value - grid.Nearest(value, params)), least) << name;
    }
  }
}

TEST(GridTest, ScalesBelowEightBitsAreHalfFloats) {
  const GroupParams params = Grid(Named("int4-sym-tensor")).ParamsFor({-0.1f, 0.123f});
  EXPECT_EQ(params.scale, F16ToF32(F32ToF16(params.scale)));
  EXPECT_TRUE(std::isfinite(Grid(Named("int4-sym-tensor")).ParamsFor({-1e9f, 0}).scale));
}

TEST(GridTest, AGroupOfZerosStaysZero) {
  for (const char* name : {"int4-sym-tensor", "int4-asym-tensor", "nf4-tensor", "e4m3-tensor"}) {
    const Grid grid(Named(name));
    EXPECT_EQ(grid.Nearest(0.0f, grid.Fit(std::vector<float>{0, 0})), 0.0f) << name;
  }
}

// As it is usually printed, to four digits.
TEST(GridTest, TheTableOfNf4) {
  const float printed[16] = {-1.0f,    -0.6962f, -0.5251f, -0.3949f, -0.2844f, -0.1848f,
                             -0.0911f, 0.0f,     0.0796f,  0.1609f,  0.2461f,  0.3379f,
                             0.4407f,  0.5626f,  0.7230f,  1.0f};
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(kNf4Table[i], printed[i], 6e-5);
}

TEST(GridTest, TheSearchedRangeWeighsErrors) {
  Scheme scheme = Named("int4-sym-tensor-mse");
  const std::vector<float> x = {0.1f, -0.12f, 0.07f, 0.03f, 2.0f};
  const Grid grid(scheme);
  // The large value alone matters: the range keeps it. It does not: the others get the codes.
  const GroupParams kept = grid.Fit(x, std::vector<float>{0, 0, 0, 0, 1});
  const GroupParams clipped = grid.Fit(x, std::vector<float>{1, 1, 1, 1, 0});
  EXPECT_NEAR(grid.Nearest(2.0f, kept), 2.0f, 2e-3);
  EXPECT_LT(clipped.scale, kept.scale / 4);
}

}  // namespace
}  // namespace nibble::quantize
