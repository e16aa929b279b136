#include "kernels/cpu/isa.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

bool Supported(CpuIsa isa) {
  const std::vector<CpuIsa> supported = SupportedIsas();
  return std::find(supported.begin(), supported.end(), isa) != supported.end();
}

TEST(IsaTest, AutoIsTheBestAndSaysWhy) {
  const auto choice = ChooseIsa(CpuIsa::kAuto);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->isa, DetectIsa());
  EXPECT_THAT(choice->why, HasSubstr("chosen automatically"));
  for (const CpuIsa isa : SupportedIsas()) {
    EXPECT_THAT(choice->why, HasSubstr(std::string(IsaName(isa))));
  }
}

TEST(IsaTest, ScalarIsEverywhere) {
  const auto choice = ChooseIsa(CpuIsa::kScalar);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->isa, CpuIsa::kScalar);
  EXPECT_THAT(choice->why, HasSubstr("scalar was asked for"));
}

TEST(IsaTest, AttentionMultipliesInBf16WhereThatIsFasterAndActivationsRoundMore) {
  const AttentionChoice fast = ChooseAttention(CpuIsa::kAvx512VnniBf16, CpuActivations::kInt8);
  EXPECT_EQ(fast.products, DType::kBf16);
  EXPECT_THAT(fast.why, HasSubstr("bf16 products"));
  for (const CpuActivations activations : {CpuActivations::kInt16, CpuActivations::kF32}) {
    const AttentionChoice exact = ChooseAttention(CpuIsa::kAvx512VnniBf16, activations);
    EXPECT_EQ(exact.products, DType::kF32);
    EXPECT_THAT(exact.why, HasSubstr("only int8 activations"));
  }
  for (const CpuIsa isa : AllIsas()) {
    if (isa == CpuIsa::kAvx512VnniBf16) continue;
    EXPECT_EQ(ChooseAttention(isa, CpuActivations::kInt8).products, DType::kF32);
    EXPECT_THAT(ChooseAttention(isa, CpuActivations::kInt8).why,
                HasSubstr(std::string(IsaName(isa))));
  }
}

// A flag, a report and a test parameter are told apart by it.
TEST(IsaTest, EveryIsaHasItsOwnName) {
  std::set<std::string> names = {std::string(IsaName(CpuIsa::kAuto))};
  for (const CpuIsa isa : AllIsas()) EXPECT_TRUE(names.insert(std::string(IsaName(isa))).second);
  EXPECT_THAT(names, Not(Contains("unknown")));
}

TEST(IsaTest, WhatTheMachineLacksIsRefusedWithWhatItHas) {
  for (const CpuIsa isa : AllIsas()) {
    const auto choice = ChooseIsa(isa);
    ASSERT_EQ(choice.ok(), Supported(isa)) << IsaName(isa);
    if (choice.ok()) {
      EXPECT_EQ(choice->isa, isa);
      continue;
    }
    EXPECT_EQ(choice.status().code(), absl::StatusCode::kFailedPrecondition);
    const std::string message(choice.status().message());
    EXPECT_THAT(message, HasSubstr(absl::StrCat("'", IsaName(isa), "'")));
    EXPECT_THAT(message, HasSubstr(std::string(IsaName(DetectIsa()))));
  }
}

// No machine is of both architectures, so one of the two is refused anywhere.
TEST(IsaTest, TheOtherArchitectureIsRefused) {
#if defined(__aarch64__)
  EXPECT_FALSE(Supported(CpuIsa::kAvx2));
#else
  EXPECT_FALSE(Supported(CpuIsa::kNeonDotprod));
#endif
}

// A name stands for all the instructions of the smaller one of its line.
TEST(IsaTest, ALargerSetHasTheSmallerOnes) {
  const std::pair<CpuIsa, CpuIsa> lines[] = {{CpuIsa::kAvx512VnniBf16, CpuIsa::kAvx512Vnni},
                                             {CpuIsa::kAvx512Vnni, CpuIsa::kAvx512},
                                             {CpuIsa::kAvx512, CpuIsa::kAvx2},
                                             {CpuIsa::kAvxVnni, CpuIsa::kAvx2}};
  for (const auto& [larger, smaller] : lines) {
    EXPECT_TRUE(!Supported(larger) || Supported(smaller)) << IsaName(larger);
  }
}

}  // namespace
}  // namespace nibble
