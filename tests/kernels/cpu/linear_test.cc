#include "kernels/cpu/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/packed_matrix.h"
#include "tests/kernels/cpu/linear_call.h"

namespace nibble {
namespace {

using quant::Format;
using quant::RandomSpec;

struct WeightCase {
  std::string name;
  RandomSpec spec;
};

// Rows that fill row blocks and rows that do not; every branch of the layout.
const WeightCase kWeights[] = {
    {"Int4G32", {.format = Format::kInt4Affine, .rows = 37, .cols = 96}},
    {"Int4G32Offsets", {.format = Format::kInt4Affine, .rows = 48, .cols = 96, .offsets = true}},
    {"Int4G32F32Scales", {.rows = 16, .cols = 64, .offsets = true, .f16_scales = false}},
    {"Int4G64Offsets", {.rows = 33, .cols = 192, .group = 64, .offsets = true}},
    {"Int4G128", {.rows = 20, .cols = 384, .group = 128}},
    {"Int4G16Offsets", {.rows = 20, .cols = 64, .group = 16, .offsets = true}},
    {"Int4G48", {.rows = 17, .cols = 96, .group = 48, .offsets = true}},
    {"Int4Wide", {.rows = 16, .cols = 2048, .offsets = true}},
    {"Int8G32", {.format = Format::kInt8, .rows = 37, .cols = 96}},
    {"Int8G32Offsets", {.format = Format::kInt8, .rows = 18, .cols = 64, .offsets = true}},
    {"Int8G16", {.format = Format::kInt8, .rows = 21, .cols = 96, .group = 16}},
    {"Int8G16Offsets",
     {.format = Format::kInt8, .rows = 16, .cols = 64, .group = 16, .offsets = true}},
    {"Int8Channel",
     {.format = Format::kInt8, .rows = 31, .cols = 576, .group = 576, .f16_scales = false}},
    {"Int4OneRow", {.rows = 1, .cols = 32, .offsets = true}},
    {"Int4ManyRows", {.rows = 4097, .cols = 32, .offsets = true}},
    {"Int8OneRow", {.format = Format::kInt8, .rows = 1, .cols = 32}},
    {"Q4K", {.format = Format::kQ4K, .rows = 37, .cols = 512}},
    {"Q4KOneRow", {.format = Format::kQ4K, .rows = 1, .cols = 256}},
    {"Int5G32", {.format = Format::kInt5Affine, .rows = 37, .cols = 96}},
    {"Int5G32Offsets", {.format = Format::kInt5Affine, .rows = 20, .cols = 64, .offsets = true}},
    {"Q5K", {.format = Format::kQ5K, .rows = 37, .cols = 512}},
    {"Q6K", {.format = Format::kQ6K, .rows = 21, .cols = 512}},
    {"Q6KOneRow", {.format = Format::kQ6K, .rows = 1, .cols = 256}},
    {"LutF16",
     {.format = Format::kLut4, .rows = 37, .cols = 96, .table = RandomSpec::Table::kInteger}},
    {"LutE8m0",
     {.format = Format::kLut4,
      .rows = 21,
      .cols = 160,
      .table = RandomSpec::Table::kHalves,
      .e8m0_scales = true}},
    {"LutG64F32",
     {.format = Format::kLut4,
      .rows = 18,
      .cols = 192,
      .group = 64,
      .f16_scales = false,
      .table = RandomSpec::Table::kInteger}},
    {"LutTwoPlanes", {.format = Format::kLut4, .rows = 33, .cols = 128, .group = 64}},
    {"LutTwoPlanesG16", {.format = Format::kLut4, .rows = 16, .cols = 96, .group = 16}},
    {"Fp8Tensor", {.format = Format::kFp8, .rows = 37, .cols = 301, .group = 301, .row_group = 37}},
    {"Fp8Channel", {.format = Format::kFp8, .rows = 16, .cols = 64, .group = 64}},
    {"Fp8Block",
     {.format = Format::kFp8, .rows = 130, .cols = 420, .group = 128, .row_group = 128}},
    {"Fp8E5m2",
     {.format = Format::kFp8, .rows = 19, .cols = 77, .group = 77, .fp8 = quant::Fp8::kE5m2}},
    {"Bf16", {.format = Format::kBf16, .rows = 19, .cols = 301, .group = 0}},
    {"F32", {.format = Format::kF32, .rows = 35, .cols = 77, .group = 0}},
    {"F32OneByOne", {.format = Format::kF32, .rows = 1, .cols = 1, .group = 0}},
};

quant::Matrix Q4_0(int32_t rows, int32_t cols, uint32_t seed) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = rows, .cols = cols}, seed);
  for (const float scale : matrix.scales) matrix.offsets.push_back(-8.0f * scale);
  return matrix;
}

using Param = std::tuple<CpuIsa, CpuActivations>;

// Every behaviour on every path of this machine, over all weights above.
class LinearTest : public ::testing::TestWithParam<Param> {
 protected:
  CpuIsa isa() const { return std::get<0>(GetParam()); }
  CpuActivations activations() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(All, LinearTest,
                         ::testing::Combine(::testing::ValuesIn(IsasOfThisMachine()),
                                            ::testing::Values(CpuActivations::kInt8,
                                                              CpuActivations::kInt16,
                                                              CpuActivations::kF32)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) +
                                  ActivationsSuffix(std::get<1>(info.param));
                         });

void ExpectNear(const std::vector<float>& y, const std::vector<double>& expected,
                const std::vector<double>& sizes, double tolerance) {
  ASSERT_EQ(y.size(), expected.size());
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], expected[i], tolerance * sizes[i]) << "element " << i;
  }
}

// f32 accumulation of up to 2048 terms stays within a few units of the last place of the sum of
// magnitudes; scales in words (linear_kernels.h) are within 2^-15 of a feature's largest, those of
// offsets within 2^-11 of it.
constexpr double kF32Tolerance = 2e-6, kWordTolerance = 6e-5;

double ToleranceOf(const LinearCall& call, CpuActivations activations) {
  bool words = false;
  for (const auto& weight : call.PackedFor(activations)) {
    words = words || static_cast<const cpu::CpuMatrix&>(*weight).shape().has_words();
  }
  return words ? kWordTolerance : kF32Tolerance;
}

TEST_P(LinearTest, AgreesWithFloat64OnTheDequantizedWeights) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    ThreadPool pool(2);
    LinearCall call;
    call.pad = 3;
    call.AddWeight(quant::RandomMatrix(weight.spec, 11));
    for (const int32_t rows : {1, 2, 7, 8, 13, 70}) {
      call.FillX(rows, 100 + rows);
      std::vector<double> sizes;
      const std::vector<double> expected = call.Reference(activations(), &sizes);
      ExpectNear(call.Run(pool, isa(), activations()), expected, sizes,
                 ToleranceOf(call, activations()));
    }
  }
}

TEST_P(LinearTest, AddsBiasAndAccumulates) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    ThreadPool pool(2);
    LinearCall call;
    call.AddWeight(quant::RandomMatrix(weight.spec, 12));
    call.FillX(9, 5);
    call.FillBias(6);
    for (const bool accumulate : {false, true}) {
      call.accumulate = accumulate;
      std::vector<double> sizes;
      const std::vector<double> expected = call.Reference(activations(), &sizes);
      ExpectNear(call.Run(pool, isa(), activations()), expected, sizes,
                 ToleranceOf(call, activations()));
    }
  }
}

// The contract of ops.h: a row's bits do not depend on the rows beside it, on its place, or on the
// threads.
TEST_P(LinearTest, ARowIsTheSameBitsInEveryBatch) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    ThreadPool one(1);
    LinearCall call;
    call.AddWeight(quant::RandomMatrix(weight.spec, 13));
    call.FillX(75, 17);
    call.FillBias(18);
    call.accumulate = true;
    const std::vector<float> all = call.Run(one, isa(), activations());
    const auto expect_rows = [&](ThreadPool& pool, int32_t first, int32_t count) {
      const std::vector<float> some = call.Run(pool, isa(), activations(), first, count);
      for (size_t i = 0; i < some.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(some[i]),
                  std::bit_cast<uint32_t>(all[static_cast<size_t>(first) * call.out_cols + i]))
            << "rows " << first << " + " << count << ", element " << i;
      }
    };
    for (int threads = 1; threads <= 5; ++threads) {
      ThreadPool pool(threads);
      expect_rows(pool, 0, 75);
    }
    ThreadPool pool(3);
    for (int32_t row = 0; row < 75; ++row) expect_rows(pool, row, 1);
    for (int32_t count = 2; count <= 20; ++count) expect_rows(pool, count / 2, count);
    expect_rows(pool, 3, 66);
  }
}

// Integer dot products are exact on every path, so paths differ only by the rounding of f32 steps.
TEST_P(LinearTest, AgreesWithTheScalarPath) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    ThreadPool pool(1);
    LinearCall call;
    call.AddWeight(quant::RandomMatrix(weight.spec, 14));
    call.FillX(11, 19);
    const std::vector<float> scalar = call.Run(pool, CpuIsa::kScalar, activations());
    const std::vector<float> y = call.Run(pool, isa(), activations());
    std::vector<double> sizes;
    call.Reference(activations(), &sizes);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], scalar[i], 1e-6 * sizes[i]) << i;
  }
}

// Everything a scale multiplies stays a small whole number.
void MakeWhole(quant::Matrix& matrix) {
  std::fill(matrix.scales.begin(), matrix.scales.end(), 1.0f);
  for (float& offset : matrix.offsets) offset = std::round(offset * 20);
  const bool is_signed = matrix.format == Format::kQ6K;
  for (uint8_t& sub : matrix.sub_scales) sub = static_cast<uint8_t>(sub % 4 - (is_signed ? 2 : 0));
}

bool IsExactInInt8(const RandomSpec& spec) {
  if (!IsIntFormat(spec.format)) return false;
  return spec.format != Format::kLut4 || spec.table != RandomSpec::Table::kAny;
}

// With scales of one and whole-number activations there is no rounding: every path must give the
// integer itself.
TEST_P(LinearTest, IntegersAreExact) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    if (!IsExactInInt8(weight.spec)) continue;
    LinearCall call;
    quant::Matrix matrix = quant::RandomMatrix(weight.spec, 15);
    MakeWhole(matrix);
    call.AddWeight(std::move(matrix));
    call.FillX(9, 20);
    for (size_t i = 0; i < call.x.size(); ++i) {
      call.x[i] = i % 32 == 0 ? 127 : std::clamp(std::round(call.x[i] * 40), -127.0f, 127.0f);
    }
    ThreadPool pool(1);
    std::vector<double> sizes;
    const std::vector<double> expected = call.Reference(CpuActivations::kF32, &sizes);
    const std::vector<float> y = call.Run(pool, isa(), activations());
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], expected[i]) << i;
  }
}

// The extremes of both sides: nothing may saturate on the way to 32 bits.
TEST_P(LinearTest, ExtremeCodesDoNotSaturate) {
  for (const WeightCase& weight : kWeights) {
    SCOPED_TRACE(weight.name);
    for (const uint8_t code : {0x00, 0x7F, 0x80, 0xFF}) {
      if (!IsExactInInt8(weight.spec)) continue;
      LinearCall call;
      quant::Matrix matrix = quant::RandomMatrix(weight.spec, 16);
      const bool six_bits = matrix.format == Format::kQ6K;
      const bool five_bits = matrix.format == Format::kInt5Affine || matrix.format == Format::kQ5K;
      std::fill(matrix.codes.begin(), matrix.codes.end(),
                six_bits    ? static_cast<uint8_t>(static_cast<int8_t>(code) >> 2)
                : five_bits ? static_cast<uint8_t>(code >> 3)
                            : code);
      std::fill(matrix.scales.begin(), matrix.scales.end(), 1.0f);
      std::fill(matrix.offsets.begin(), matrix.offsets.end(), -1.0f);
      std::fill(matrix.sub_scales.begin(), matrix.sub_scales.end(), 1);
      for (int i = 0; i < 16; ++i) matrix.table[i] = i < 8 ? 127.0f : -127.0f;
      call.AddWeight(std::move(matrix));
      for (const float value : {-127.0f, 127.0f}) {
        call.FillX(3, 21);
        std::fill(call.x.begin(), call.x.end(), value);
        ThreadPool pool(1);
        std::vector<double> sizes;
        const std::vector<double> expected = call.Reference(CpuActivations::kF32, &sizes);
        const std::vector<float> y = call.Run(pool, isa(), activations());
        for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], expected[i]) << i;
      }
    }
  }
}

// The same for words: both of a scale and of its offset as large as they get, in the one sum of 32
// bits that a pair of groups has.
TEST_P(LinearTest, WordsAtTheirLargestDoNotOverflow) {
  for (const float sign : {-1.0f, 1.0f}) {
    for (const uint8_t code : {0x00, 0xFF}) {
      quant::Matrix matrix = quant::RandomMatrix({.rows = 16, .cols = 96, .offsets = true}, 16);
      std::fill(matrix.codes.begin(), matrix.codes.end(), code);
      // Centred, the offset is 8 scales: half of the words of the scale.
      std::fill(matrix.scales.begin(), matrix.scales.end(), sign * (2 - 0x1p-10f));
      std::fill(matrix.offsets.begin(), matrix.offsets.end(), 0.0f);
      LinearCall call;
      call.AddWeight(std::move(matrix));
      for (const float value : {-127.0f, 127.0f}) {
        call.FillX(9, 21);
        std::fill(call.x.begin(), call.x.end(), value);
        ThreadPool pool(1);
        std::vector<double> sizes;
        const std::vector<double> expected = call.Reference(CpuActivations::kF32, &sizes);
        ExpectNear(call.Run(pool, isa(), activations()), expected, sizes, kF32Tolerance);
      }
    }
  }
}

// Groups whose scales differ by as much as files hold: those of x a thousandfold and more, those of
// the weight likewise. What is lost is a part of the largest, of the row of x and of the feature.
TEST_P(LinearTest, WordsOfUnequalGroupsLoseAPartOfTheLargest) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 32, .cols = 160, .offsets = true}, 17);
  for (size_t i = 0; i < matrix.scales.size(); ++i) {
    const float factor = i % 3 == 0 ? 1.0f : i % 3 == 1 ? 0x1p-5f : 0x1p-9f;
    matrix.scales[i] *= factor;
    matrix.offsets[i] *= factor;
  }
  LinearCall call;
  call.AddWeight(std::move(matrix));
  call.FillX(9, 22);
  for (size_t i = 0; i < call.x.size(); ++i) {
    call.x[i] *= i / 32 % 3 == 0 ? 1000.0f : i / 32 % 3 == 1 ? 1.0f : 1e-4f;
  }
  ThreadPool pool(1);
  std::vector<double> sizes;
  const std::vector<double> expected = call.Reference(activations(), &sizes);
  ExpectNear(call.Run(pool, isa(), activations()), expected, sizes,
             ToleranceOf(call, activations()));
}

// The same for tables read in two planes: 16 bits of the largest entry, either sign.
TEST_P(LinearTest, ExtremeTableEntriesDoNotSaturate) {
  for (const float entry : {-1.0f, 1.0f}) {
    quant::Matrix matrix =
        quant::RandomMatrix({.format = Format::kLut4, .rows = 16, .cols = 64}, 2);
    std::fill(matrix.scales.begin(), matrix.scales.end(), 1.0f);
    std::fill(std::begin(matrix.table), std::end(matrix.table), entry);
    matrix.table[3] = 0.1f;  // so that two planes are needed
    std::fill(matrix.codes.begin(), matrix.codes.end(), 0xFF);
    LinearCall call;
    call.AddWeight(std::move(matrix));
    call.FillX(3, 21);
    std::fill(call.x.begin(), call.x.end(), 127.0f);
    ThreadPool pool(1);
    for (const float y : call.Run(pool, isa(), activations())) {
      EXPECT_NEAR(y, entry * 127 * 64, 0.01);
    }
  }
}

// What two planes are for: the rest of a group is quantized in steps 254 times finer.
TEST(LinearActivationsTest, SixteenBitsAreAHundredTimesCloserThanEight) {
  LinearCall call;
  call.AddWeight(quant::RandomMatrix({.rows = 96, .cols = 576, .offsets = true}, 31));
  call.FillX(4, 32);
  ThreadPool pool(1);
  const std::vector<float> exact = call.Run(pool, CpuIsa::kScalar, CpuActivations::kF32);
  const auto error = [&](CpuActivations activations) {
    const std::vector<float> y = call.Run(pool, CpuIsa::kScalar, activations);
    double squares = 0;
    for (size_t i = 0; i < y.size(); ++i) squares += std::pow(double{y[i]} - exact[i], 2);
    return std::sqrt(squares);
  };
  EXPECT_LT(error(CpuActivations::kInt16) * 100, error(CpuActivations::kInt8));
}

class LinearIsaTest : public ::testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isas, LinearIsaTest, ::testing::ValuesIn(IsasOfThisMachine()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

// As q, k, v in one call, each in another format, with odd widths between them.
TEST_P(LinearIsaTest, SeveralWeightsOfDifferentFormatsInOneCall) {
  for (const CpuActivations activations :
       {CpuActivations::kInt8, CpuActivations::kInt16, CpuActivations::kF32}) {
    ThreadPool pool(3);
    LinearCall call;
    call.pad = 1;
    call.AddWeight(quant::RandomMatrix({.rows = 37, .cols = 128, .offsets = true}, 1));
    call.AddWeight(
        quant::RandomMatrix({.format = Format::kInt8, .rows = 5, .cols = 128, .group = 16}, 2));
    call.AddWeight(
        quant::RandomMatrix({.format = Format::kBf16, .rows = 18, .cols = 128, .group = 0}, 3));
    call.AddWeight(Q4_0(33, 128, 4));
    call.AddWeight(quant::RandomMatrix({.format = Format::kLut4, .rows = 3, .cols = 128}, 8));
    call.AddWeight(quant::RandomMatrix(
        {.format = Format::kFp8, .rows = 40, .cols = 128, .group = 128, .row_group = 40}, 9));
    call.AddWeight(
        quant::RandomMatrix({.format = Format::kF32, .rows = 1, .cols = 128, .group = 0}, 5));
    call.FillX(21, 6);
    call.FillBias(7);
    std::vector<double> sizes;
    const std::vector<double> expected = call.Reference(activations, &sizes);
    ExpectNear(call.Run(pool, GetParam(), activations), expected, sizes,
               ToleranceOf(call, activations));
  }
}

// Enough work for the threads to share, also while quantizing.
TEST_P(LinearIsaTest, ManyRowsOnManyThreads) {
  LinearCall call;
  call.AddWeight(Q4_0(160, 256, 4));
  call.AddWeight(quant::RandomMatrix({.format = Format::kInt8, .rows = 50, .cols = 256}, 2));
  call.AddWeight(quant::RandomMatrix({.format = Format::kQ4K, .rows = 33, .cols = 256}, 3));
  call.AddWeight(quant::RandomMatrix({.format = Format::kQ6K, .rows = 20, .cols = 256}, 3));
  call.FillX(200, 6);
  std::vector<double> sizes;
  const std::vector<double> expected = call.Reference(CpuActivations::kInt8, &sizes);
  for (int threads = 1; threads <= 5; ++threads) {
    ThreadPool pool(threads);
    ExpectNear(call.Run(pool, GetParam(), CpuActivations::kInt8), expected, sizes, kWordTolerance);
  }
}

// A row that overflowed must not come out as a plausible number, nor touch its neighbours.
TEST_P(LinearIsaTest, InfinityAndNanStayInTheirRow) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    LinearCall call;
    call.AddWeight(Q4_0(20, 96, 1));
    call.FillX(5, 3);
    ThreadPool pool(1);
    const std::vector<float> good = call.Run(pool, GetParam(), CpuActivations::kInt8);
    call.x[2 * 96 + 40] = bad;
    const std::vector<float> y = call.Run(pool, GetParam(), CpuActivations::kInt8);
    for (size_t i = 0; i < y.size(); ++i) {
      if (i / 20 == 2) {
        EXPECT_TRUE(std::isnan(y[i])) << i;
      } else {
        EXPECT_EQ(y[i], good[i]) << i;
      }
    }
  }
}

TEST_P(LinearIsaTest, ZerosAndDenormalsAreZero) {
  LinearCall call;
  call.AddWeight(Q4_0(20, 64, 1));
  for (const float value : {0.0f, -0.0f, 1e-42f, -1e-35f}) {
    call.FillX(3, 3);
    std::fill(call.x.begin(), call.x.end(), value);
    ThreadPool pool(1);
    for (const float y : call.Run(pool, GetParam(), CpuActivations::kInt8)) EXPECT_EQ(y, 0.0f);
  }
}

TEST_P(LinearIsaTest, NoRowsIsNoWork) {
  LinearCall call;
  call.AddWeight(Q4_0(20, 64, 1));
  call.FillX(0, 3);
  ThreadPool pool(2);
  EXPECT_TRUE(call.Run(pool, GetParam(), CpuActivations::kInt8).empty());
}

// All have fused multiply-adds and the same order: a linear call answers the same on any of them.
TEST(LinearIsasTest, AllVectorIsasGiveTheSameBits) {
  std::vector<CpuIsa> isas = IsasOfThisMachine();
  isas.erase(std::remove(isas.begin(), isas.end(), CpuIsa::kScalar), isas.end());
  if (isas.size() < 2) GTEST_SKIP() << "this machine has no two vector instruction sets";
  ThreadPool pool(1);
  for (const WeightCase& weight : kWeights) {
    for (const CpuActivations activations :
         {CpuActivations::kInt8, CpuActivations::kInt16, CpuActivations::kF32}) {
      LinearCall call;
      call.AddWeight(quant::RandomMatrix(weight.spec, 31));
      call.FillX(12, 32);
      const std::vector<float> first = call.Run(pool, isas[0], activations);
      for (const CpuIsa isa : isas) {
        EXPECT_EQ(call.Run(pool, isa, activations), first) << weight.name << " " << IsaName(isa);
      }
    }
  }
}

// The embedding reads the same packed weight as the head.
TEST(EmbedTest, GathersRowsExactlyAsTheCanonicalMatrixDefinesThem) {
  for (const WeightCase& weight : kWeights) {
    LinearCall call;
    call.AddWeight(quant::RandomMatrix(weight.spec, 41));
    const quant::Matrix& matrix = call.matrices[0];
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 40; ++i) ids.push_back((i * 7 + 3) % matrix.rows);
    std::vector<float> out(40 * (matrix.cols + 2), -1.0f);
    ThreadPool pool(3);
    EmbedCpu(
        pool,
        {.table = call.packed[0].get(),
         .ids = ids.data(),
         .out = {.data = out.data(), .rows = 40, .cols = matrix.cols, .stride = matrix.cols + 2}});
    for (int32_t i = 0; i < 40; ++i) {
      std::vector<float> row(matrix.cols);
      quant::DequantizeRow(matrix, ids[i], row.data());
      for (int32_t k = 0; k < matrix.cols; ++k) {
        ASSERT_EQ(out[i * (matrix.cols + 2) + k], row[k]) << weight.name << " row " << i;
      }
      EXPECT_EQ(out[i * (matrix.cols + 2) + matrix.cols], -1.0f);
    }
  }
}

}  // namespace
}  // namespace nibble
