// The CUDA backend through its interface, on the emulator: linears of every kind of weight against
// the CPU backend, prompts against the same tokens one by one, rows that never notice their
// neighbours, graphs, packed bytes, and what is refused before a step could meet it.
#include "kernels/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/linear.h"
#include "measured_error.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using quant::Format;
using quant::RandomSpec;
using testing::HasSubstr;
using testing::Not;

std::unique_ptr<Backend> MakeCuda(DType activations, bool graphs = true) {
  CudaOptions options;
  options.activations = activations;
  options.workspace_bytes = int64_t{4} << 20;
  options.graphs = graphs;
  return CreateCudaBackend(options).value();
}

std::unique_ptr<Backend> MakeCpu() {
  CpuOptions options;
  options.activations = CpuActivations::kF32;
  options.num_threads = 1;
  return CreateCpuBackend(options).value();
}

// Rows in a device's memory.
class Rows {
 public:
  Rows(Backend& backend, DType dtype, int32_t rows, int32_t cols)
      : backend_(backend),
        memory_(backend.Allocate(int64_t{rows} * cols * static_cast<int64_t>(SizeOf(dtype)), "test")
                    .value()) {
    tensor_.data = memory_.data();
    tensor_.rows = rows;
    tensor_.cols = tensor_.stride = cols;
    tensor_.dtype = dtype;
  }
  void Write(const std::vector<float>& values) {
    if (tensor_.dtype == DType::kF32) {
      backend_.CopyToDevice(tensor_.data, values.data(), memory_.size_bytes());
      return;
    }
    std::vector<uint16_t> halves;
    for (const float x : values) halves.push_back(ToHalf(tensor_.dtype, x));
    backend_.CopyToDevice(tensor_.data, halves.data(), memory_.size_bytes());
  }
  std::vector<float> Read() {
    const size_t n = static_cast<size_t>(tensor_.rows) * tensor_.cols;
    std::vector<float> values(n);
    if (tensor_.dtype == DType::kF32) {
      backend_.CopyToHost(values.data(), tensor_.data, memory_.size_bytes());
      return values;
    }
    std::vector<uint16_t> halves(n);
    backend_.CopyToHost(halves.data(), tensor_.data, memory_.size_bytes());
    for (size_t i = 0; i < n; ++i) values[i] = ToFloat(tensor_.dtype, halves[i]);
    return values;
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  Backend& backend_;
  DeviceBuffer memory_;
  Tensor tensor_;
};

std::vector<float> Floats(DType type, size_t n, uint32_t seed) {
  std::vector<float> values;
  for (const uint16_t half : RandomHalves(type, n, seed)) values.push_back(ToFloat(type, half));
  return values;
}

struct LinearCase {
  std::string name;
  std::vector<RandomSpec> weights;
  bool norm = false, bias = false, accumulate = false, gated = false, f32 = false;
};

// y of a case for rows of x, on a backend whose activations are of `dtype`.
std::vector<float> RunCase(Backend& backend, DType dtype, const LinearCase& test,
                           const std::vector<float>& x, int32_t rows) {
  const int32_t cols = test.weights[0].cols;
  std::vector<std::unique_ptr<PackedMatrix>> packed;
  std::vector<const PackedMatrix*> weights;
  int32_t out = 0;
  for (const RandomSpec& spec : test.weights) {
    packed.push_back(backend.Pack(quant::RandomMatrix(spec, 7 + out)).value());
    weights.push_back(packed.back().get());
    out += spec.rows;
  }
  if (test.gated) out /= 2;
  Rows device_x(backend, dtype, rows, cols), y(backend, test.f32 ? DType::kF32 : dtype, rows, out);
  Rows norm(backend, DType::kF32, 1, cols), bias(backend, DType::kF32, 1, out);
  device_x.Write(x);
  y.Write(std::vector<float>(static_cast<size_t>(rows) * out, 0.25f));
  norm.Write(Floats(DType::kF32, cols, 3));
  bias.Write(Floats(DType::kF32, out, 4));
  LinearParams params;
  params.x = device_x.tensor();
  params.weights = weights;
  params.y = y.tensor();
  if (test.norm) params.norm_weight = norm.tensor().f32();
  params.norm_epsilon = 1e-5f;
  if (test.bias) params.bias = bias.tensor().f32();
  params.accumulate = test.accumulate;
  params.gated = test.gated;
  backend.Linear(params);
  const absl::Status done = backend.Synchronize();
  EXPECT_TRUE(done.ok()) << done << emulator::TheGpu().TakeFault();
  return y.Read();
}

class LinearTest : public testing::TestWithParam<LinearCase> {};

TEST_P(LinearTest, EqualsTheCpuAndGivesARowTheSameBitsInAnyBatch) {
  const LinearCase& test = GetParam();
  const int32_t rows = 70, cols = test.weights[0].cols;  // more than a pass
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const auto cuda = MakeCuda(dtype);
    const auto cpu = MakeCpu();
    const std::vector<float> x = Floats(dtype, static_cast<size_t>(rows) * cols, 11);
    const std::vector<float> got = RunCase(*cuda, dtype, test, x, rows);
    const std::vector<float> expected = RunCase(*cpu, DType::kF32, test, x, rows);
    // A slab's weights are rounded as y is; a norm rounds its row once more, a gate both of its
    // products.
    const Format format = test.weights[0].format;
    const bool is_float = format == Format::kBf16 || format == Format::kF32;
    const double more = test.norm || test.gated ? 3 : (is_float ? 1.5 : 1);
    const double error =
        RelativeError({got.begin(), got.end()}, {expected.begin(), expected.end()});
    if (is_float && !test.norm) {
      Measured("gemm", absl::StrCat(quant::FormatName(format), " weights"), dtype, error);
    }
    EXPECT_LT(error, more * (dtype == DType::kBf16 ? kTolerance : kTolerance / 4));
    const size_t out = got.size() / rows;
    for (const int32_t row : {0, 5, 63, 64, 69}) {
      const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
      const std::vector<float> alone = RunCase(*cuda, dtype, test, one, 1);
      EXPECT_EQ(alone, std::vector<float>(got.begin() + row * out, got.begin() + (row + 1) * out))
          << "row " << row;
    }
  }
}

constexpr RandomSpec kInt4 = {.rows = 48, .cols = 128};
constexpr RandomSpec kOffsets = {.rows = 136, .cols = 128, .group = 64, .offsets = true};
constexpr RandomSpec kOffsetsK = {.rows = 24, .cols = 128, .group = 64, .offsets = true};
constexpr RandomSpec kLut4 = {.format = Format::kLut4, .rows = 40, .cols = 128};
constexpr RandomSpec kInt8 = {.format = Format::kInt8, .rows = 40, .cols = 128};
constexpr RandomSpec kFp8 = {
    .format = Format::kFp8, .rows = 40, .cols = 128, .group = 128, .row_group = 40};
constexpr RandomSpec kFp8Blocks = {
    .format = Format::kFp8, .rows = 136, .cols = 200, .group = 128, .row_group = 128};
constexpr RandomSpec kFp8Channels = {
    .format = Format::kFp8, .rows = 40, .cols = 128, .group = 128, .fp8 = quant::Fp8::kE5m2};
constexpr RandomSpec kInt8Channels = {
    .format = Format::kInt8, .rows = 40, .cols = 128, .group = 128, .f16_scales = false};
constexpr RandomSpec kQ5K = {.format = Format::kQ5K, .rows = 40, .cols = 256};
constexpr RandomSpec kQ6K = {.format = Format::kQ6K, .rows = 40, .cols = 256};
constexpr RandomSpec kBf16 = {.format = Format::kBf16, .rows = 40, .cols = 128, .group = 0};
constexpr RandomSpec kF32 = {.format = Format::kF32, .rows = 40, .cols = 128, .group = 0};

std::vector<LinearCase> LinearCases() {
  return {LinearCase{"Int4", {kInt4}},
          LinearCase{"Offsets", {kOffsets}, true},
          LinearCase{"Int8", {kInt8}},
          LinearCase{"Fp8", {kFp8}, false, true},
          LinearCase{"Bf16", {kBf16}, false, false, true},
          LinearCase{"F32", {kF32}, false, true, true},
          LinearCase{"QkvOfThreeFormats", {kOffsets, kLut4, kInt8}, true, true},
          LinearCase{"QkvAlike", {kOffsets, kOffsetsK, kOffsetsK}, true, true},
          LinearCase{"GateAndUp", {kInt4, kInt4}, true, false, false, true},
          LinearCase{"GateAndUpOfOffsets", {kOffsets, kOffsets}, true, false, false, true},
          LinearCase{"GateAndUpOfInt8", {kInt8, kInt8}, true, false, false, true},
          LinearCase{"Int4Logits", {kInt4}, true, false, false, false, true},
          LinearCase{"Q6KLogits", {kQ6K}, true, false, false, false, true},
          LinearCase{"Fp8Blocks", {kFp8Blocks}, false, true},
          LinearCase{"Fp8Channels", {kFp8Channels}, false, false, true},
          LinearCase{"Int8Channels", {kInt8Channels}},
          LinearCase{"Q5K", {kQ5K}, true},
          LinearCase{"Bf16Logits", {kBf16}, true, false, false, false, true}};
}

INSTANTIATE_TEST_SUITE_P(Each, LinearTest, testing::ValuesIn(LinearCases()),
                         [](const auto& info) { return info.param.name; });

std::unique_ptr<Backend> MakeWide(DType activations, int64_t workspace_bytes = int64_t{4} << 20) {
  CudaOptions options;
  options.activations = activations;
  options.workspace_bytes = workspace_bytes;
  options.wide_rows = true;
  return CreateCudaBackend(options).value();
}

class WideRowsTest : public LinearTest {};

// More rows than a pass takes, all at once. The weights are rounded to 16 bits, as y is.
TEST_P(WideRowsTest, EqualsTheCpu) {
  const LinearCase& test = GetParam();
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const auto cuda = MakeWide(dtype);
    const auto cpu = MakeCpu();
    for (const int32_t rows : {65, 100, 128}) {
      const int32_t cols = test.weights[0].cols;
      const std::vector<float> x = Floats(dtype, static_cast<size_t>(rows) * cols, 11);
      const std::vector<float> got = RunCase(*cuda, dtype, test, x, rows);
      const std::vector<float> expected = RunCase(*cpu, DType::kF32, test, x, rows);
      const double error =
          RelativeError({got.begin(), got.end()}, {expected.begin(), expected.end()});
      if (!test.norm) Measured("wide rows", test.name, dtype, error);
      const double more = test.norm ? 3 : 1.5;
      EXPECT_LT(error, more * (dtype == DType::kBf16 ? kTolerance : kTolerance / 4)) << rows;
    }
  }
}

// Up to 64 rows, and without the flag, every bit is what it is without.
TEST_P(WideRowsTest, ChangesNothingOfAPass) {
  const LinearCase& test = GetParam();
  const int32_t cols = test.weights[0].cols;
  const auto wide = MakeWide(DType::kF16), narrow = MakeCuda(DType::kF16);
  for (const int32_t rows : {1, 64}) {
    const std::vector<float> x = Floats(DType::kF16, static_cast<size_t>(rows) * cols, 11);
    EXPECT_EQ(RunCase(*wide, DType::kF16, test, x, rows),
              RunCase(*narrow, DType::kF16, test, x, rows));
  }
}

INSTANTIATE_TEST_SUITE_P(Each, WideRowsTest, testing::ValuesIn(LinearCases()),
                         [](const auto& info) { return info.param.name; });

// What is left of a call by a pass of as many rows as there may be is a pass as ever.
TEST(WideRows, ManyRowsAreSeveralPasses) {
  const LinearCase test{"", {{.rows = 8, .cols = 64}}};
  const auto wide = MakeWide(DType::kF16), narrow = MakeCuda(DType::kF16);
  const std::vector<float> x = Floats(DType::kF16, size_t{kMostGemmRows + 67} * 64, 5);
  const std::vector<float> expected = RunCase(*narrow, DType::kF16, test, x, kMostGemmRows + 67);
  const std::vector<float> got = RunCase(*wide, DType::kF16, test, x, kMostGemmRows + 67);
  EXPECT_LT(RelativeError({got.begin(), got.end()}, {expected.begin(), expected.end()}), 1e-3);
  const std::vector<float> fewer(x.begin(), x.end() - int64_t{64} * 64);
  const std::vector<float> last = RunCase(*wide, DType::kF16, test, fewer, kMostGemmRows + 3);
  EXPECT_EQ(std::vector<float>(last.end() - 3 * 8, last.end()),
            std::vector<float>(expected.begin() + kMostGemmRows * 8,
                               expected.begin() + (kMostGemmRows + 3) * 8));
}

// Tensor cores multiply tiles, the GEMM slabs: of these the emulator counts only the former's.
TEST(WideRows, CountersTellThatTilesAreMultipliedNoMore) {
  const LinearCase test{"", {kInt4}};
  const std::vector<float> x = Floats(DType::kF16, size_t{65} * kInt4.cols, 5);
  const auto mmas = [&](Backend& backend, int32_t rows) {
    emulator::TheGpu().ResetCounts();
    RunCase(backend, DType::kF16, test, {x.begin(), x.begin() + int64_t{rows} * kInt4.cols}, rows);
    return emulator::TheGpu().counts().mmas;
  };
  const auto wide = MakeWide(DType::kF16), narrow = MakeCuda(DType::kF16);
  EXPECT_GT(mmas(*narrow, 65), 0u);
  EXPECT_GT(mmas(*wide, 64), 0u);
  EXPECT_EQ(mmas(*wide, 65), 0u);
}

// A weight of which only the shape is looked at.
class Shape : public CudaMatrix {
 public:
  Shape(int32_t rows, int32_t cols) : CudaMatrix(Of(rows, cols)) {}

 private:
  static StoredMatrix Of(int32_t rows, int32_t cols) {
    StoredMatrix stored;
    stored.storage = Storage::kTiled;
    stored.rows = stored.tiled.rows = rows;
    stored.cols = stored.tiled.cols = cols;
    stored.tiled.group = 128;
    return stored;
  }
};

// Rows that a linear of these weights multiplies at once, with norm: wide, and of tiles.
struct PassRows {
  int32_t wide = 0, tiled = 0;
  friend bool operator==(const PassRows&, const PassRows&) = default;
};
PassRows PassRowsOf(const std::vector<Shape>& weights, bool gated, int64_t workspace_bytes) {
  std::vector<const PackedMatrix*> pointers;
  for (const Shape& weight : weights) pointers.push_back(&weight);
  LinearParams params;
  params.weights = pointers;
  params.x.cols = weights[0].cols();
  const float norm = 1;
  params.norm_weight = &norm;
  params.gated = gated;
  return {WidePassRows(params, workspace_bytes), TiledPassRows(params, workspace_bytes)};
}

// The 8B shape in the default workspace, and in others.
TEST(PassRows, AreAsManyAsTheWorkspaceHolds) {
  constexpr int64_t kDefault = CudaOptions{}.workspace_bytes;
  EXPECT_EQ(PassRowsOf({{4096, 4096}, {1024, 4096}, {1024, 4096}}, false, kDefault),
            (PassRows{kMostGemmRows, kMostTiledPassRows}));
  EXPECT_EQ(PassRowsOf({{14336, 4096}, {14336, 4096}}, true, kDefault),
            (PassRows{1216, kMostTiledPassRows}));
  EXPECT_EQ(PassRowsOf({{4096, 14336}}, false, kDefault),
            (PassRows{kMostGemmRows, kMostTiledPassRows}));
  EXPECT_EQ(PassRowsOf({{128256, 4096}}, false, kDefault),
            (PassRows{kMostGemmRows, kMostTiledPassRows}));
  EXPECT_EQ(PassRowsOf({{14336, 4096}, {14336, 4096}}, true, 64 << 20).tiled, 128);
  EXPECT_EQ(PassRowsOf({{14336, 4096}, {14336, 4096}}, true, 30 << 20).tiled, kPassRows);
  EXPECT_EQ(PassRowsOf({{4096, 4096}}, false, 18 << 20).wide, kPassRows);
}

// More rows than a pass of tiles, on devices with warp groups and without, give each row the bits
// that it has among few.
TEST(PassRows, ChangeNoBit) {
  const LinearCase test{
      "",
      {{.rows = 136, .cols = 768, .group = 128}, {.rows = 24, .cols = 768, .group = 128}},
      true};
  constexpr int32_t kRows = kMostTiledPassRows + 70;
  const std::vector<float> x = Floats(DType::kF16, size_t{kRows} * 768, 5);
  for (const int major : {8, 9}) {
    emulator::TheGpu().SetCapability(major, 0);
    const auto cuda = MakeCuda(DType::kF16);
    const std::vector<float> all = RunCase(*cuda, DType::kF16, test, x, kRows);
    for (const int32_t rows : {3, 20, 130}) {
      const std::vector<float> few(x.end() - int64_t{rows} * 768, x.end());
      EXPECT_EQ(RunCase(*cuda, DType::kF16, test, few, rows),
                std::vector<float>(all.end() - int64_t{rows} * 160, all.end()))
          << rows << " rows, compute capability " << major;
    }
    emulator::TheGpu().SetCapability(8, 0);
  }
}

// Linears of several weights, by how many launches they are (one for sums of x where there are
// offsets).
struct LaunchCase {
  std::string name;
  std::vector<RandomSpec> weights;
  uint64_t launches = 0;
};

std::vector<LaunchCase> LaunchCases() {
  constexpr RandomSpec kWide = {.rows = 136, .cols = 640};
  constexpr RandomSpec kNarrow = {.rows = 24, .cols = 640};
  constexpr RandomSpec kOfOffsets = {.rows = 136, .cols = 640, .group = 64, .offsets = true};
  // 640 columns in groups of 64 have as many sums for tiles of 64 columns as for those of 128.
  constexpr RandomSpec k8BitOfOffsets = {
      .format = Format::kInt8, .rows = 40, .cols = 640, .group = 64, .offsets = true};
  constexpr RandomSpec kOfGroup32 = {.rows = 40, .cols = 640, .offsets = true};
  return {
      {"ThreeAlike", {kWide, kNarrow, kNarrow}, 1},
      {"FiveAlike", {kNarrow, kWide, kNarrow, kNarrow, kNarrow}, 2},
      {"TwoAlikeAndInt8", {kWide, kNarrow, {.format = Format::kInt8, .rows = 24, .cols = 640}}, 2},
      {"AlikeButNotNeighbours", {kWide, kOfOffsets, kNarrow}, 4},
      {"ThreeOfOffsets", {kOfOffsets, kOfOffsets, kOfOffsets}, 2},
      {"OneSumForTwoKinds", {kOfOffsets, k8BitOfOffsets}, 3},
      {"SumsOfTwoGroups", {kOfOffsets, kOfGroup32, kOfOffsets}, 6}};
}

class LaunchTest : public testing::TestWithParam<LaunchCase> {
 protected:
  static constexpr int32_t kRows = 3, kCols = 640;

  LaunchTest() {
    for (const RandomSpec& spec : GetParam().weights) {
      packed_.push_back(backend_->Pack(quant::RandomMatrix(spec, 7 + out_)).value());
      weights_.push_back(packed_.back().get());
      out_ += spec.rows;
    }
  }

  // Of x through all weights in one call, or in one each.
  std::vector<float> Run(bool together) {
    Rows x(*backend_, DType::kF16, kRows, kCols), y(*backend_, DType::kF16, kRows, out_);
    Rows bias(*backend_, DType::kF32, 1, out_);
    x.Write(Floats(DType::kF16, size_t{kRows} * kCols, 5));
    y.Write(Floats(DType::kF16, static_cast<size_t>(kRows) * out_, 6));
    bias.Write(Floats(DType::kF32, static_cast<size_t>(out_), 4));
    emulator::TheGpu().ResetCounts();
    const size_t step = together ? weights_.size() : 1;
    int32_t col = 0;
    for (size_t i = 0; i < weights_.size(); i += step) {
      LinearParams params;
      params.x = x.tensor();
      params.weights = absl::MakeConstSpan(weights_).subspan(i, step);
      params.y = y.tensor();
      params.y.data = static_cast<uint16_t*>(params.y.data) + col;
      params.y.cols = together ? out_ : weights_[i]->rows();
      params.bias = bias.tensor().f32() + col;
      params.accumulate = true;
      backend_->Linear(params);
      col += params.y.cols;
    }
    launches_ = emulator::TheGpu().counts().launches;
    EXPECT_TRUE(backend_->Synchronize().ok()) << emulator::TheGpu().TakeFault();
    return y.Read();
  }

  std::unique_ptr<Backend> backend_ = MakeCuda(DType::kF16);
  std::vector<std::unique_ptr<PackedMatrix>> packed_;
  std::vector<const PackedMatrix*> weights_;
  int32_t out_ = 0;
  uint64_t launches_ = 0;
};

// To the rounding of 16 bits: parts of a sum depend on what is in the launch.
TEST_P(LaunchTest, EachWeightGivesWhatItGivesAlone) {
  const std::vector<float> together = Run(true), apart = Run(false);
  EXPECT_LT(RelativeError({together.begin(), together.end()}, {apart.begin(), apart.end()}), 2e-4);
}

TEST_P(LaunchTest, ALinearAsksForAsFewLaunchesAsItsWeightsAllow) {
  Run(true);
  EXPECT_EQ(launches_, GetParam().launches);
}

INSTANTIATE_TEST_SUITE_P(Each, LaunchTest, testing::ValuesIn(LaunchCases()),
                         [](const auto& info) { return info.param.name; });

// A layer's cache, and sequences whose q, k and v are drawn by position.
class AttentionWorld {
 public:
  static constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 64, kBlock = 16, kMaxBlocks = 20;
  static constexpr int32_t kCols = (kHeads + 2 * kKvHeads) * kDim, kMaxTokens = 400;

  AttentionWorld(Backend& backend, DType cache_dtype)
      : backend_(backend),
        dtype_(backend.activation_dtype()),
        memory_(backend.Allocate(2 * PlaneBytes(cache_dtype), "cache").value()) {
    cache_.k = memory_.data();
    cache_.v = static_cast<uint8_t*>(memory_.data()) + PlaneBytes(cache_dtype);
    cache_.dtype = cache_dtype;
    cache_.num_blocks = 2 * kMaxBlocks;
    cache_.block_size = kBlock;
    cache_.num_kv_heads = kKvHeads;
    cache_.head_dim = kDim;
  }

  struct Part {
    int32_t sequence = 0, first = 0, count = 0;
  };
  // Stores and attends these tokens in one step; out row by row.
  std::vector<float> Step(const std::vector<Part>& parts) {
    std::vector<float> qkv;
    std::vector<int32_t> positions, slots, cu = {0}, lens, table;
    for (const Part& part : parts) {
      for (int32_t p = part.first; p < part.first + part.count; ++p) {
        const auto row = Floats(dtype_, kCols, 1000 * part.sequence + p);
        qkv.insert(qkv.end(), row.begin(), row.end());
        positions.push_back(p);
        slots.push_back((part.sequence * kMaxBlocks + p / kBlock) * kBlock + p % kBlock);
      }
      cu.push_back(cu.back() + part.count);
      lens.push_back(part.first + part.count);
      for (int32_t b = 0; b < kMaxBlocks; ++b) table.push_back(part.sequence * kMaxBlocks + b);
    }
    return Run(qkv, positions, slots, cu, lens, table);
  }

 private:
  static constexpr int64_t PlaneBytes(DType cache_dtype) {
    return int64_t{2} * kMaxBlocks * kKvHeads * KvHeadBytes(cache_dtype, kBlock, kDim);
  }

  const int32_t* Ints(const std::vector<int32_t>& values, std::vector<DeviceBuffer>& keep) {
    const auto bytes = static_cast<int64_t>(values.size() * 4);
    keep.push_back(backend_.Allocate(bytes, "ints").value());
    backend_.CopyToDevice(keep.back().data(), values.data(), bytes);
    return static_cast<const int32_t*>(keep.back().data());
  }

  std::vector<float> Run(const std::vector<float>& qkv_values,
                         const std::vector<int32_t>& positions, const std::vector<int32_t>& slots,
                         const std::vector<int32_t>& cu, const std::vector<int32_t>& lens,
                         const std::vector<int32_t>& table) {
    const auto tokens = static_cast<int32_t>(positions.size());
    std::vector<DeviceBuffer> keep;
    Rows qkv(backend_, dtype_, tokens, kCols), out(backend_, dtype_, tokens, kHeads * kDim);
    qkv.Write(qkv_values);
    RopeStoreKvParams rope;
    rope.qkv = qkv.tensor();
    rope.num_heads = kHeads;
    rope.positions = Ints(positions, keep);
    rope.slots = Ints(slots, keep);
    rope.cache = cache_;
    Rows angles(backend_, DType::kF32, kMaxTokens, 1);
    rope.cos_sin = angles.tensor().f32();
    backend_.RopeStoreKv(rope);
    AttentionParams params;
    params.q = qkv.tensor();
    params.q.cols = kHeads * kDim;
    params.num_heads = kHeads;
    params.cache = cache_;
    params.num_seqs = static_cast<int32_t>(lens.size());
    params.max_blocks = kMaxBlocks;
    params.cu_seqlens_q = Ints(cu, keep);
    params.context_lens = Ints(lens, keep);
    params.block_table = Ints(table, keep);
    params.scale = 0.125f;
    params.out = out.tensor();
    backend_.Attention(params);
    const absl::Status done = backend_.Synchronize();
    EXPECT_TRUE(done.ok()) << done << emulator::TheGpu().TakeFault();
    return out.Read();
  }

  Backend& backend_;
  const DType dtype_;  // of activations
  DeviceBuffer memory_;
  KvLayer cache_;
};

class CacheTypeTest : public testing::TestWithParam<DType> {};

TEST_P(CacheTypeTest, APromptIsTheSameBitsInAnyChunksAndCompany) {
  const auto backend = MakeCuda(DType::kBf16);
  constexpr int32_t kLength = 290;  // past a split of 256
  AttentionWorld whole(*backend, GetParam()), chunks(*backend, GetParam());
  const std::vector<float> expected = whole.Step({{0, 0, kLength}});
  std::vector<float> got;
  int32_t first = 0;
  for (const int32_t count : {1, 100, 3, 185, 1}) {
    const std::vector<float> rows = chunks.Step({{1, first / 2, 1}, {0, first, count}});
    got.insert(got.end(), rows.begin() + rows.size() / (count + 1), rows.end());
    first += count;
  }
  ASSERT_EQ(first, kLength);
  EXPECT_EQ(got, expected);
}

INSTANTIATE_TEST_SUITE_P(Each, CacheTypeTest,
                         testing::Values(DType::kBf16, DType::kI8, DType::kF8E4M3));

// A graph's body, run through RunStep thrice on other inputs; returns what each left in y.
std::vector<std::vector<float>> ThreeSteps(bool graphs, uint64_t& launches) {
  const auto backend = MakeCuda(DType::kF16, graphs);
  const auto weight = backend->Pack(quant::RandomMatrix(kInt4, 1)).value();
  const PackedMatrix* const weights[] = {weight.get()};
  Rows x(*backend, DType::kF16, 2, kInt4.cols), y(*backend, DType::kF16, 2, kInt4.rows);
  int bodies = 0;
  std::vector<std::vector<float>> results;
  for (uint32_t step = 0; step < 4; ++step) {
    x.Write(Floats(DType::kF16, static_cast<size_t>(2) * kInt4.cols, step));
    backend->RunStep({.num_tokens = 2, .num_sequences = 2}, [&] {
      ++bodies;
      LinearParams params;
      params.x = x.tensor();
      params.weights = weights;
      params.y = y.tensor();
      backend->Linear(params);
    });
    EXPECT_TRUE(backend->Synchronize().ok());
    results.push_back(y.Read());
  }
  EXPECT_EQ(bodies, graphs ? 2 : 4) << "once to load its kernels, once to be captured";
  launches = emulator::TheGpu().counts().launches;
  emulator::TheGpu().ResetCounts();
  return results;
}

TEST(CudaBackendTest, AStepThatIsReplayedGivesTheSameBits) {
  uint64_t with = 0, without = 0;
  emulator::TheGpu().ResetCounts();
  const auto replayed = ThreeSteps(true, with);
  EXPECT_EQ(replayed, ThreeSteps(false, without));
  EXPECT_NE(replayed[2], replayed[3]);
  EXPECT_EQ(with, without);
}

// One linear of three 4-bit weights over normalized rows, with dependent launches or without.
std::vector<float> Dependent(bool allow, int major, emulator::Counts& counts) {
  emulator::TheGpu().SetCapability(major, 0);
  CudaOptions options;
  options.workspace_bytes = int64_t{4} << 20;
  options.dependent_launches = allow;
  const auto backend = CreateCudaBackend(options).value();
  emulator::TheGpu().SetCapability(8, 0);
  const LinearCase test{"", {kInt4, kOffsets, kLut4}, true, true};
  emulator::TheGpu().ResetCounts();
  std::vector<float> y =
      RunCase(*backend, DType::kF16, test, Floats(DType::kF16, size_t{3} * kInt4.cols, 5), 3);
  counts = emulator::TheGpu().counts();
  return y;
}

TEST(CudaBackendTest, DependentLaunchesFetchWeightsEarlyAndChangeNoBit) {
  emulator::Counts off, on, too_old;
  const std::vector<float> expected = Dependent(false, 9, off);
  EXPECT_EQ(Dependent(true, 9, on), expected);
  EXPECT_EQ(Dependent(true, 8, too_old), expected);
  EXPECT_EQ(off.dependent_launches, 0u);
  EXPECT_EQ(too_old.dependent_launches, 0u) << "compute capability 9.0 is needed";
  EXPECT_EQ(on.dependent_launches, 3u);
  // All of the weights: there are fewer tiles than stages. And nothing else.
  uint64_t weights = 0;
  const auto backend = MakeCuda(DType::kF16);
  for (const RandomSpec& spec : {kInt4, kOffsets, kLut4}) {
    weights += backend->Pack(quant::RandomMatrix(spec, 1)).value()->size_bytes();
  }
  EXPECT_EQ(on.early_read_bytes, weights);
}

// A head of floats whose second slab begins at row 5440 and not at 5461, 16 Mi elements on: what
// the GEMM writes is aligned (the reference refuses what is not).
TEST(CudaBackendTest, LogitsOfALaterSlabAreAligned) {
  constexpr int32_t kRows = 5470, kCols = 3072;
  const auto backend = CreateCudaBackend({.activations = DType::kBf16}).value();
  const quant::Matrix matrix =
      quant::RandomMatrix({.format = Format::kBf16, .rows = kRows, .cols = kCols, .group = 0}, 1);
  const auto weight = backend->Pack(matrix).value();
  const PackedMatrix* const weights[] = {weight.get()};
  const std::vector<float> values = Floats(DType::kBf16, kCols, 2);
  Rows x(*backend, DType::kBf16, 1, kCols), y(*backend, DType::kF32, 1, kRows);
  x.Write(values);
  LinearParams params;
  params.x = x.tensor();
  params.weights = weights;
  params.y = y.tensor();
  backend->Linear(params);
  const absl::Status done = backend->Synchronize();
  ASSERT_TRUE(done.ok()) << done << emulator::TheGpu().TakeFault();
  const std::vector<float> logits = y.Read();
  std::vector<float> row(kCols);
  for (const int32_t n : {0, 5439, 5440, 5461, kRows - 1}) {
    quant::DequantizeRow(matrix, n, row.data());
    double sum = 0, magnitude = 0;
    for (int32_t c = 0; c < kCols; ++c) {
      sum += double{row[c]} * values[c];
      magnitude += std::abs(double{row[c]} * values[c]);
    }
    EXPECT_NEAR(logits[n], sum, 1e-5 * magnitude) << n;
  }
}

TEST(CudaBackendTest, StepsWithPromptsAreNotCaptured) {
  const auto backend = MakeCuda(DType::kF16);
  int bodies = 0;
  for (int i = 0; i < 3; ++i) {
    backend->RunStep({.num_tokens = 5, .num_sequences = 2}, [&] { ++bodies; });
  }
  EXPECT_EQ(bodies, 3);
}

TEST(CudaBackendTest, PackedBytesMakeTheSameMatrix) {
  const auto backend = MakeCuda(DType::kF16);
  for (const RandomSpec& spec :
       {kInt4, kOffsets, kLut4, kInt8, kInt8Channels, kFp8, kFp8Blocks, kBf16, kF32}) {
    const auto matrix = backend->Pack(quant::RandomMatrix(spec, 2)).value();
    const PackedBytes bytes = backend->ToBytes(*matrix);
    EXPECT_LE(bytes.header.size(), 256u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.sections[0].data()) % 64, 0u);
    const auto again = backend->FromBytes(bytes, nullptr).value();
    const PackedBytes copy = backend->ToBytes(*again);
    EXPECT_EQ(copy.header, bytes.header);
    EXPECT_EQ(copy.sections[0], bytes.sections[0]);
    const PackedBytes cut = {bytes.header, {bytes.sections[0].subspan(1)}};
    EXPECT_EQ(backend->FromBytes(cut, nullptr).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(CudaBackendTest, WhatDoesNotFitIsToldWithItsSums) {
  const auto backend = MakeCuda(DType::kF16);
  MemoryPlan plan;
  plan.weights = int64_t{3} << 30;
  plan.kv_cache = int64_t{2} << 30;
  plan.activations = 12345;
  const absl::Status status = backend->CheckPlan(plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("weights 3221225472 + KV cache 2147483648 + activations 12345 + graphs "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("held: steps 1310720, workspace 4194304"));
  plan.weights = 1 << 20;
  plan.kv_cache = 1 << 20;
  EXPECT_TRUE(backend->CheckPlan(plan).ok());
  const auto buffer = backend->Allocate(int64_t{1} << 40, "the KV cache");
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), HasSubstr("for the KV cache: 1099511627776"));
}

TEST(CudaBackendTest, AWeightTooLargeForTheWorkspaceIsRefusedWhenItIsPacked) {
  const auto backend = MakeCuda(DType::kF16);
  const auto packed = backend->Pack(quant::RandomMatrix({.rows = 4096, .cols = 2048}, 1));
  EXPECT_EQ(packed.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(packed.status().message()), HasSubstr("bytes of workspace"));
}

TEST(CudaBackendTest, AttentionWithoutAKernelIsRefusedAtLoad) {
  const auto backend = MakeCuda(DType::kF16);
  KvLayer cache;
  cache.dtype = DType::kF16;
  cache.block_size = 16;
  cache.num_kv_heads = 2;
  cache.head_dim = 64;
  EXPECT_TRUE(backend->CheckAttention(cache, 4, 1024).ok());
  const auto message = [&](auto change, int32_t context) {
    KvLayer other = cache;
    change(other);
    return std::string(backend->CheckAttention(other, 4, context).message());
  };
  EXPECT_THAT(message([](KvLayer& c) { c.head_dim = 80; }, 64), HasSubstr("head_dim is 80"));
  EXPECT_EQ(message([](KvLayer& c) { c.dtype = DType::kI8; }, 64), "");
  EXPECT_EQ(message([](KvLayer& c) { c.dtype = DType::kF8E4M3; }, 64), "");
  EXPECT_THAT(message([](KvLayer& c) { c.dtype = DType::kBf16; }, 64), HasSubstr("is bf16"));
  const auto of_six = [](KvLayer& c) {
    c.dtype = DType::kI8;
    c.block_size = 6;
  };
  EXPECT_THAT(message(of_six, 64), HasSubstr("is int8 in blocks of 6"));
  EXPECT_THAT(std::string(backend->CheckAttention(cache, 258, 64).message()),
              HasSubstr("258 heads for 2 kv heads, at most 128"));
  EXPECT_THAT(message([](KvLayer&) {}, 1 << 24), HasSubstr("lower --max-context"));
}

TEST(CudaBackendTest, AFaultOfAKernelIsToldOnceByItsOp) {
  const auto backend = MakeCuda(DType::kF16);
  const auto table = backend->Pack(quant::RandomMatrix(kInt4, 1)).value();
  Rows ids(*backend, DType::kF32, 1, 1), out(*backend, DType::kF16, 1, kInt4.cols);
  const int32_t far = 1 << 12;  // within the emulated memory, past every allocation
  backend->CopyToDevice(ids.tensor().data, &far, 4);
  EmbedParams params;
  params.table = table.get();
  params.ids = static_cast<const int32_t*>(ids.tensor().data);
  params.out = out.tensor();
  backend->Embed(params);
  EXPECT_THAT(std::string(backend->Synchronize().message()), HasSubstr("op 'embed' on cuda:0"));
  emulator::TheGpu().TakeFault();
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(CudaBackendTest, SaysWhatItIs) {
  const auto backend = MakeCuda(DType::kBf16);
  const DeviceInfo info = backend->Info();
  EXPECT_EQ(info.name, "cuda:0");
  EXPECT_EQ(info.isa, "sm_80");
  EXPECT_THAT(info.why, HasSubstr("reference GEMM, bf16 activations"));
  EXPECT_THAT(info.why, Not(HasSubstr("last bits")));
  EXPECT_THAT(MakeWide(DType::kF16)->Info().why, HasSubstr("last bits may depend on its batch"));
  EXPECT_GT(info.num_threads, 0);
  std::atomic<int> sum{0};
  backend->RunParts(5, [&](int part) { sum += part; });
  EXPECT_EQ(sum, 10);
  CudaOptions options;
  options.activations = DType::kF32;
  EXPECT_TRUE(absl::IsInvalidArgument(CreateCudaBackend(options).status()));
  options = {};
  options.ordinal = 9;
  EXPECT_TRUE(absl::IsFailedPrecondition(CreateCudaBackend(options).status()));
}

}  // namespace
}  // namespace nibble::cuda
