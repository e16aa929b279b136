#include "engine/quantize/methods/gemm.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

std::vector<const GemmKernels*> Runnable() {
  std::vector<const GemmKernels*> all = {&kGemmBaseline};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&kGemmAvx2);
  if (&BestGemm() == &kGemmAvx512) all.push_back(&kGemmAvx512);
#endif
  return all;
}

// Odd shapes too: what lies beyond a vector.
TEST(GemmTest, EveryInstructionSetGivesTheProducts) {
  for (const GemmKernels* kernels : Runnable()) {
    for (const auto& [tokens, in, out] :
         std::vector<std::array<int, 3>>{{1, 1, 1}, {7, 33, 5}, {64, 256, 96}, {130, 100, 67}}) {
      const MatrixF x = testing::NormalWeights(tokens, in, 1, 1.0f);
      const MatrixF weight = testing::NormalWeights(out, in, 2, 1.0f);
      MatrixF y = MatrixF::Constant(tokens, out, 7);
      kernels->multiply_transposed(x.data(), tokens, in, weight.data(), out, y.data());
      const Eigen::MatrixXd wanted = x.cast<double>() * weight.cast<double>().transpose();
      EXPECT_LT((y.cast<double>() - wanted).norm(), 1e-5 * (1e-3 + wanted.norm()));

      MatrixF products = MatrixF::Ones(in, in);
      const int64_t first = in / 3, last = in - in / 4;
      kernels->add_gram(x.data(), tokens, in, first, last, products.data());
      Eigen::MatrixXd gram = Eigen::MatrixXd::Ones(in, in);
      gram.block(first, first, last - first, in - first) +=
          x.middleCols(first, last - first).cast<double>().transpose() *
          x.rightCols(in - first).cast<double>();
      EXPECT_LT((products.cast<double>() - gram).norm(), 1e-5 * gram.norm());
    }
  }
}

TEST(GemmTest, TheBestOneIsUsed) {
  const MatrixF x = testing::NormalWeights(9, 40, 3), weight = testing::NormalWeights(11, 40, 4);
  MatrixF y(9, 11);
  BestGemm().multiply_transposed(x.data(), 9, 40, weight.data(), 11, y.data());
  EXPECT_EQ(MultiplyTransposed(x, weight), y);
}

}  // namespace
}  // namespace nibble::quantize
