// The parts of the CPU backend that are no op of their own: options, memory, copies, gathering.
#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>

#include "tests/kernels/cpu/op_fixture.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

using testing::HasSubstr;

TEST(BackendTest, SaysWhatItRunsOnAndWhy) {
  for (CpuIsa isa : AvailableIsas()) {
    const DeviceInfo info = MakeBackend(isa, 3)->Info();
    EXPECT_EQ(info.name, "cpu");
    EXPECT_EQ(info.isa, std::string(IsaName(isa)));
    EXPECT_THAT(info.why, HasSubstr(ChooseIsa(isa)->why));
    EXPECT_THAT(info.why, HasSubstr(ChooseAttention(isa, CpuActivations::kInt8).why));
    EXPECT_EQ(info.num_threads, 3);
    EXPECT_GT(info.memory_bytes, int64_t{64} << 20);
    EXPECT_GT(info.memory_free_bytes, 0);
    EXPECT_LE(info.memory_free_bytes, info.memory_bytes);
  }
}

TEST(BackendTest, ZeroThreadsMeansOneACore) {
  EXPECT_GE(MakeBackend(CpuIsa::kAuto, 0)->Info().num_threads, 1);
}

TEST(BackendTest, RefusesThreadsOutOfRange) {
  for (int32_t num_threads : {-1, 257}) {
    CpuOptions options;
    options.num_threads = num_threads;
    const auto backend = CreateCpuBackend(options);
    ASSERT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(backend.status().message()), HasSubstr(std::to_string(num_threads)));
  }
}

TEST(BackendTest, MemoryIsZeroedAndAligned) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  for (int64_t size : {0, 1, 63, 100000}) {
    const DeviceBuffer buffer = backend->Allocate(size, "a test").value();
    EXPECT_EQ(buffer.size_bytes(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    const auto* bytes = static_cast<const unsigned char*>(buffer.data());
    EXPECT_EQ(std::accumulate(bytes, bytes + size, 0), 0);
  }
}

TEST(BackendTest, TooMuchMemoryIsNamedWithBothSizes) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  const auto buffer = backend->Allocate(int64_t{1} << 50, "the KV cache");
  ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("the KV cache"));
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("1125899906842624"));
}

TEST(BackendTest, APlanThatCannotFitIsRefused) {
  MemoryPlan plan;
  plan.weights = 1000;
  EXPECT_TRUE(MakeBackend(CpuIsa::kAuto, 1)->CheckPlan(plan).ok());
  plan.kv_cache = int64_t{1} << 60;
  const absl::Status status = MakeBackend(CpuIsa::kAuto, 1)->CheckPlan(plan);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST(BackendTest, CopiesThereAndBack) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  const DeviceBuffer buffer = backend->Allocate(12, "a test").value();
  const int32_t in[3] = {1, 2, 3};
  int32_t out[3] = {};
  backend->CopyToDevice(buffer.data(), in, 12);
  backend->CopyToHost(out, buffer.data(), 12);
  EXPECT_THAT(out, testing::ElementsAre(1, 2, 3));
}

TEST(BackendTest, RunStepRunsTheStepEveryTime) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  int runs = 0;
  for (int i = 0; i < 3; ++i) backend->RunStep(StepKey{}, [&] { ++runs; });
  EXPECT_EQ(runs, 3);
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(BackendTest, GathersRowsByIndexWithRepeats) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  std::vector<float> x = {0, 1, 10, 11, 20, 21}, out(8);
  const int32_t rows[] = {2, 0, 0, 1};
  GatherRowsParams params;
  params.x = RowsOf(x, 3, 2);
  params.rows = rows;
  params.out = RowsOf(out, 4, 2);
  backend->GatherRows(params);
  EXPECT_THAT(out, testing::ElementsAre(20, 21, 0, 1, 0, 1, 10, 11));
}

TEST(BackendTest, PacksAndMultipliesAWeight) {
  auto backend = MakeBackend(CpuIsa::kAuto, 2);
  quant::Matrix matrix;
  matrix.format = quant::Format::kF32;
  matrix.rows = 2;
  matrix.cols = 32;
  std::vector<float> values(64, 1.0f);
  values[32] = 5.0f;
  matrix.codes.resize(256);
  std::memcpy(matrix.codes.data(), values.data(), 256);
  const auto packed = backend->Pack(matrix).value();
  std::vector<float> x(32, 1.0f), y(2);
  const PackedMatrix* weight = packed.get();
  LinearParams params;
  params.x = RowsOf(x, 1, 32);
  params.weights = absl::MakeConstSpan(&weight, 1);
  params.y = RowsOf(y, 1, 2);
  backend->Linear(params);
  EXPECT_THAT(y, testing::ElementsAre(32, 36));
  const int32_t id = 1;
  EmbedParams embed;
  embed.table = weight;
  embed.ids = &id;
  embed.out = RowsOf(x, 1, 32);
  backend->Embed(embed);
  EXPECT_EQ(x[0], 5.0f);
}

// Int4 with f16 scales is packed for int8 activations alone (packed_matrix.h), other formats are
// not; a cache file of the one kind is never taken for the other.
TEST(BackendTest, WhatWasPackedForInt8IsRefusedWhereActivationsAreOthers) {
  const auto int8 = MakeBackend(CpuIsa::kAuto, 1);
  const auto int4_matrix = quant::RandomMatrix({.rows = 16, .cols = 64, .offsets = true}, 1);
  const auto int8_matrix =
      quant::RandomMatrix({.format = quant::Format::kInt8, .rows = 16, .cols = 64}, 1);
  const auto int4_packed = int8->Pack(int4_matrix).value();
  const auto int8_packed = int8->Pack(int8_matrix).value();
  EXPECT_TRUE(int8->FromBytes(int8->ToBytes(*int4_packed), nullptr).ok());
  for (const auto activations : {CpuActivations::kInt16, CpuActivations::kF32}) {
    const auto other = MakeBackend(CpuIsa::kAuto, 1, activations);
    EXPECT_NE(other->packed_layout().name, int8->packed_layout().name);
    EXPECT_TRUE(other->FromBytes(int8->ToBytes(*int8_packed), nullptr).ok());
    const auto refused = other->FromBytes(int8->ToBytes(*int4_packed), nullptr);
    ASSERT_EQ(refused.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("int8 activations"));
  }
}

TEST(BackendTest, AnIdBelowZeroIsATokenThatWasDrawn) {
  auto backend = MakeBackend(CpuIsa::kAuto, 1);
  quant::Matrix matrix;
  matrix.format = quant::Format::kF32;
  matrix.rows = 3;
  matrix.cols = 32;
  std::vector<float> values(96);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i / 32);
  matrix.codes.resize(384);
  std::memcpy(matrix.codes.data(), values.data(), 384);
  const auto table = backend->Pack(matrix).value();
  std::vector<float> logits = {0, 0, 9, 0, 9, 0}, out(64);
  std::vector<SampleRow> rows(2);
  rows[1].logits_row = 1;
  std::vector<SampledToken> tokens(2);
  std::vector<int32_t> drawn(2);
  SampleParams sample;
  sample.logits = RowsOf(logits, 2, 3);
  sample.rows = rows;
  sample.out = tokens.data();
  sample.drawn = drawn.data();
  backend->Sample(sample);
  EXPECT_THAT(drawn, testing::ElementsAre(2, 1));
  const std::vector<int32_t> ids = {-2, -1};
  EmbedParams embed;
  embed.table = table.get();
  embed.ids = ids.data();
  embed.drawn = drawn.data();
  embed.out = RowsOf(out, 2, 32);
  backend->Embed(embed);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[32], 2.0f);
}

}  // namespace
}  // namespace nibble
