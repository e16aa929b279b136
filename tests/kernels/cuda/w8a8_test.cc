// Linears with 8-bit weights and 8-bit activations, through the backend on the emulator: against
// float64 over the codes of both, near float64 over what was quantized; the same bits in any batch;
// and which weights a device of which capability takes so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/backend.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/fp8.h"
#include "measured_error.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using quant::Format;
using quant::Fp8;
using quant::RandomSpec;
using testing::EndsWith;
using testing::HasSubstr;

// A device of that capability, for as long as the object lives.
class Capability {
 public:
  Capability(int major, int minor) { TheGpu().SetCapability(major, minor); }
  ~Capability() { TheGpu().SetCapability(8, 0); }
};

std::unique_ptr<Backend> MakeBackend(DType activations = DType::kF16, bool wide_rows = false) {
  CudaOptions options;
  options.activations = activations;
  options.wide_rows = wide_rows;
  options.workspace_bytes = int64_t{4} << 20;
  options.quantize_activations = true;
  return CreateCudaBackend(options).value();
}

struct Case {
  std::string name;
  RandomSpec spec;
  RowCodes codes;
  double near;  // of x as it was: what 8 bits of it cost
};

std::vector<Case> Cases() {
  RandomSpec int8{.format = Format::kInt8, .rows = 48, .cols = 256, .group = 256};
  RandomSpec tensor{.format = Format::kFp8, .rows = 48, .cols = 256, .group = 256, .row_group = 48};
  RandomSpec channel = tensor;
  channel.row_group = 1;
  RandomSpec block{
      .format = Format::kFp8, .rows = 144, .cols = 384, .group = 128, .row_group = 128};
  RandomSpec e5m2 = channel;
  e5m2.fp8 = Fp8::kE5m2;
  RandomSpec e5m2_block = block;
  e5m2_block.fp8 = Fp8::kE5m2;
  return {{"Int8Channel", int8, RowCodes::kInt8, 0.015},
          {"E4m3Tensor", tensor, RowCodes::kE4m3, 0.04},
          {"E4m3Channel", channel, RowCodes::kE4m3, 0.04},
          {"E5m2Channel", e5m2, RowCodes::kE4m3, 0.04},
          {"E4m3Block", block, RowCodes::kE4m3Blocks, 0.04},
          {"E5m2Block", e5m2_block, RowCodes::kE4m3Blocks, 0.04}};
}

std::vector<uint16_t> Multiply(Backend& backend, const PackedMatrix& weight, DType dtype,
                               const std::vector<uint16_t>& x) {
  const auto rows = static_cast<int32_t>(x.size()) / weight.cols();
  const DeviceArray<uint16_t> device_x(x), y(static_cast<size_t>(rows) * weight.rows());
  const PackedMatrix* const weights[] = {&weight};
  LinearParams params;
  params.x = {.data = device_x.data(), .rows = rows, .cols = weight.cols()};
  params.x.stride = params.x.cols;
  params.x.dtype = dtype;
  params.weights = weights;
  params.y = {.data = y.data(), .rows = rows, .cols = weight.rows()};
  params.y.stride = params.y.cols;
  params.y.dtype = dtype;
  backend.Linear(params);
  const absl::Status done = backend.Synchronize();
  EXPECT_TRUE(done.ok()) << done << TheGpu().TakeFault();
  return y.Read();
}

// What the codes of x stand for.
std::vector<double> ValuesOfCodes(DType dtype, RowCodes codes, const std::vector<uint16_t>& x,
                                  int32_t cols) {
  const auto rows = static_cast<int32_t>(x.size()) / cols;
  const DeviceArray<uint16_t> device_x(x);
  const DeviceArray<uint8_t> out(x.size());
  const DeviceArray<float> scales(x.size() / kScaleBlock + static_cast<size_t>(rows));
  const QuantizeRowsCall call{.dtype = dtype,
                              .codes = codes,
                              .rows = rows,
                              .cols = cols,
                              .x = device_x.data(),
                              .x_stride = cols,
                              .out = out.data(),
                              .scales = scales.data()};
  EXPECT_EQ(LaunchQuantizeRows(call, nullptr), cudaSuccess);
  const std::vector<uint8_t> bytes = out.Read();
  const std::vector<float> scale_of = scales.Read();
  std::vector<double> values;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const size_t row = i / cols, col = i % cols;
    const bool has_blocks = codes == RowCodes::kE4m3Blocks;
    const float scale = scale_of[has_blocks ? col / kScaleBlock * rows + row : row];
    const float value =
        codes == RowCodes::kInt8 ? static_cast<int8_t>(bytes[i]) : E4m3ToF32(bytes[i]);
    values.push_back(double{scale} * value);
  }
  return values;
}

std::vector<double> Product(const quant::Matrix& matrix, const std::vector<double>& x) {
  std::vector<float> w(matrix.cols);
  const size_t rows = x.size() / matrix.cols;
  std::vector<double> y(rows * matrix.rows);
  for (int32_t n = 0; n < matrix.rows; ++n) {
    quant::DequantizeRow(matrix, n, w.data());
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int32_t c = 0; c < matrix.cols; ++c) sum += x[r * matrix.cols + c] * w[c];
      y[r * matrix.rows + n] = sum;
    }
  }
  return y;
}

class W8A8Test : public testing::TestWithParam<Case> {};

TEST_P(W8A8Test, EqualsTheProductOfCodesAndGivesARowTheSameBitsInAnyBatch) {
  const Capability hopper(9, 0);
  const Case& test = GetParam();
  const quant::Matrix matrix = quant::RandomMatrix(test.spec, 3);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const auto backend = MakeBackend(dtype);
    const auto weight = backend->Pack(matrix).value();
    ASSERT_EQ(static_cast<const CudaMatrix&>(*weight).stored().storage, Storage::kCodes);
    constexpr int32_t kRows = 65;  // more than a pass
    const std::vector<uint16_t> x =
        RandomHalves(dtype, static_cast<size_t>(kRows) * matrix.cols, 11);
    const std::vector<uint16_t> got = Multiply(*backend, *weight, dtype, x);
    const std::vector<double> values = ToDoubles(dtype, got);
    const double error =
        RelativeError(values, Product(matrix, ValuesOfCodes(dtype, test.codes, x, matrix.cols)));
    EXPECT_LT(Measured("gemm, W8A8", test.name, dtype, error), kTolerance);
    const double lost = RelativeError(values, Product(matrix, ToDoubles(dtype, x)));
    std::printf("%s, %s: %.4f of the product is lost with 8-bit activations\n", test.name.c_str(),
                TypeOf(dtype), lost);
    EXPECT_LT(lost, test.near);
    for (const int32_t row : {0, 7, 63, 64}) {
      const std::vector<uint16_t> one(x.begin() + row * matrix.cols,
                                      x.begin() + (row + 1) * matrix.cols);
      EXPECT_EQ(Multiply(*backend, *weight, dtype, one),
                std::vector<uint16_t>(got.begin() + row * matrix.rows,
                                      got.begin() + (row + 1) * matrix.rows))
          << "row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, W8A8Test, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

// The weights of one linear, and what is fused with it.
struct Call {
  std::vector<quant::Matrix> weights;
  bool norm = false, gated = false, bias = false;
};

class CallWorld {
 public:
  CallWorld(Backend& backend, const Call& call, DType dtype, int32_t rows)
      : backend_(backend),
        call_(call),
        dtype_(dtype),
        rows_(rows),
        cols_(call.weights[0].cols),
        x_(RandomHalves(dtype, static_cast<size_t>(rows) * call.weights[0].cols, 21)),
        norm_(Wave(call.weights[0].cols)) {
    for (const quant::Matrix& matrix : call.weights) {
      packed_.push_back(backend.Pack(matrix).value());
      weights_.push_back(packed_.back().get());
      out_ += matrix.rows;
    }
    bias_.emplace(Wave(out_));
  }

  std::vector<uint16_t> AsOneOp() {
    const int32_t cols = call_.gated ? out_ / 2 : out_;
    const DeviceArray<uint16_t> y(static_cast<size_t>(rows_) * cols);
    LinearParams params = Params(x_.data(), weights_, TensorOf(y.data(), cols));
    if (call_.norm) params.norm_weight = norm_.data();
    params.norm_epsilon = 1e-5f;
    params.gated = call_.gated;
    if (call_.bias) params.bias = bias_->data();
    TheGpu().ResetCounts();
    backend_.Linear(params);
    Wait();
    return y.Read();
  }

  // A norm, a linear for each weight, an activation.
  std::vector<uint16_t> AsOpsOfTheirOwn() {
    const DeviceArray<uint16_t> normed(x_.size()), both(static_cast<size_t>(rows_) * out_);
    const DeviceArray<uint16_t> gated(static_cast<size_t>(rows_) * out_ / 2);
    RmsNormParams norm;
    norm.x = TensorOf(x_.data(), cols_);
    norm.weight = norm_.data();
    norm.epsilon = 1e-5f;
    norm.out = TensorOf(normed.data(), cols_);
    if (call_.norm) backend_.RmsNorm(norm);
    int32_t first = 0;
    for (const PackedMatrix* const& weight : weights_) {
      Tensor y = TensorOf(both.data() + first, weight->rows());
      y.stride = out_;
      LinearParams params =
          Params(call_.norm ? normed.data() : x_.data(), absl::MakeConstSpan(&weight, 1), y);
      if (call_.bias) params.bias = bias_->data() + first;
      backend_.Linear(params);
      first += weight->rows();
    }
    GatedActivationParams activation;
    activation.gate_up = TensorOf(both.data(), out_);
    activation.out = TensorOf(gated.data(), out_ / 2);
    if (call_.gated) backend_.GatedActivation(activation);
    Wait();
    return call_.gated ? gated.Read() : both.Read();
  }

 private:
  static std::vector<float> Wave(int32_t n) {
    std::vector<float> values(n);
    for (int32_t i = 0; i < n; ++i) values[i] = 1 + 0.5f * std::sin(static_cast<float>(i));
    return values;
  }
  Tensor TensorOf(uint16_t* data, int32_t cols) const {
    Tensor tensor;
    tensor.data = data;
    tensor.rows = rows_;
    tensor.cols = tensor.stride = cols;
    tensor.dtype = dtype_;
    return tensor;
  }
  LinearParams Params(uint16_t* x, absl::Span<const PackedMatrix* const> weights,
                      const Tensor& y) const {
    LinearParams params;
    params.x = TensorOf(x, cols_);
    params.weights = weights;
    params.y = y;
    return params;
  }
  void Wait() {
    const absl::Status done = backend_.Synchronize();
    EXPECT_TRUE(done.ok()) << done << TheGpu().TakeFault();
  }

  Backend& backend_;
  const Call& call_;
  const DType dtype_;
  const int32_t rows_, cols_;
  int32_t out_ = 0;
  const DeviceArray<uint16_t> x_;
  const DeviceArray<float> norm_;
  std::optional<DeviceArray<float>> bias_;
  std::vector<std::unique_ptr<PackedMatrix>> packed_;
  std::vector<const PackedMatrix*> weights_;
};

// q, k and v of a kind of codes, and gate and up.
std::vector<Call> CallsOf(const RandomSpec& spec) {
  RandomSpec large = spec, small = spec;
  small.rows = 16;
  if (spec.row_group == spec.rows) small.row_group = small.rows;  // a scale for all
  const auto matrix = [](const RandomSpec& of, uint32_t seed) {
    return quant::RandomMatrix(of, seed);
  };
  Call qkv{.weights = {matrix(large, 1), matrix(small, 2), matrix(small, 3)}};
  qkv.norm = qkv.bias = true;
  Call gate_up{.weights = {matrix(large, 4), matrix(large, 5)}};
  gate_up.norm = gate_up.gated = true;
  return {qkv, gate_up};
}

TEST_P(W8A8Test, FusedLaunchesGiveTheBitsOfOpsOfTheirOwn) {
  const Capability hopper(9, 0);
  for (const Call& call : CallsOf(GetParam().spec)) {
    for (const DType dtype : {DType::kBf16, DType::kF16}) {
      const auto backend = MakeBackend(dtype);
      CallWorld world(*backend, call, dtype, 67);  // the second pass of rows ends within a four
      EXPECT_EQ(world.AsOneOp(), world.AsOpsOfTheirOwn()) << (call.gated ? "gate, up" : "q, k, v");
    }
  }
}

// All rows of codes at once. The reference GEMM sums any row in one order, so that a difference is
// one of rows, codes or scales.
TEST_P(W8A8Test, WideRowsAreTheProductsOfTheSameCodes) {
  const Capability hopper(9, 0);
  for (const Call& call : CallsOf(GetParam().spec)) {
    const auto narrow = MakeBackend(), wide = MakeBackend(DType::kF16, /*wide_rows=*/true);
    CallWorld passes(*narrow, call, DType::kF16, 130), at_once(*wide, call, DType::kF16, 130);
    const std::vector<uint16_t> expected = passes.AsOneOp();
    const uint64_t launches = TheGpu().counts().launches;
    EXPECT_EQ(ToDoubles(DType::kF16, at_once.AsOneOp()), ToDoubles(DType::kF16, expected));
    EXPECT_EQ(launches, 3 * TheGpu().counts().launches) << "130 rows are three passes, or one";
  }
}

// What a layer launches beside its GEMMs, which the emulator does not count.
TEST_P(W8A8Test, ANormAndItsCodesAreOneLaunchAndAllProductsAreFinishedByOne) {
  const Capability hopper(9, 0);
  const auto backend = MakeBackend();
  for (const Call& call : CallsOf(GetParam().spec)) {
    CallWorld world(*backend, call, DType::kF16, 3);
    world.AsOneOp();
    EXPECT_EQ(TheGpu().counts().launches, 2u) << (call.gated ? "gate, up" : "q, k, v");
  }
}

// Weights in tiles read 16-bit rows, and each other kind of codes is made of those.
TEST(W8A8, MixedWeightsOfACallEachGetTheirRows) {
  const Capability hopper(9, 0);
  const std::vector<Case> cases = Cases();
  Call call{.weights = {quant::RandomMatrix(cases[0].spec, 1),
                        quant::RandomMatrix({.rows = 40, .cols = 256}, 2),
                        quant::RandomMatrix(cases[2].spec, 3)}};
  call.norm = call.bias = true;
  const auto backend = MakeBackend();
  CallWorld world(*backend, call, DType::kF16, 67);
  EXPECT_EQ(world.AsOneOp(), world.AsOpsOfTheirOwn());
}

// Products of three weights that the workspace holds one by one only: more launches, the same bits.
TEST(W8A8, ASmallWorkspaceFinishesOneProductAtATime) {
  const Capability hopper(9, 0);
  const RandomSpec spec{.format = Format::kInt8, .rows = 2048, .cols = 16, .group = 16};
  Call call{.weights = {quant::RandomMatrix(spec, 1), quant::RandomMatrix(spec, 2),
                        quant::RandomMatrix(spec, 3)}};
  call.norm = call.bias = true;
  const auto large = MakeBackend();
  CudaOptions options;
  options.quantize_activations = true;
  options.workspace_bytes = 1152 << 10;
  const auto small = CreateCudaBackend(options).value();
  CallWorld one(*large, call, DType::kF16, 3), each(*small, call, DType::kF16, 3);
  const std::vector<uint16_t> expected = one.AsOneOp();
  EXPECT_EQ(TheGpu().counts().launches, 2u);
  EXPECT_EQ(each.AsOneOp(), expected);
  EXPECT_EQ(TheGpu().counts().launches, 4u);
}

// Where a device lacks the units, the same weight is dequantized in registers: chosen when it is
// packed.
TEST(W8A8, IsChosenByTheDeviceAndSaid) {
  const auto stored = [](const RandomSpec& spec) {
    const auto weight = MakeBackend()->Pack(quant::RandomMatrix(spec, 1)).value();
    return static_cast<const CudaMatrix&>(*weight).stored().storage;
  };
  const std::vector<Case> cases = Cases();
  const RandomSpec int8 = cases[0].spec, e4m3 = cases[1].spec, block = cases[4].spec;
  {
    const Capability ampere(8, 0);
    EXPECT_EQ(stored(int8), Storage::kCodes);
    EXPECT_EQ(stored(e4m3), Storage::kTiled);
    EXPECT_THAT(MakeBackend()->Info().why, HasSubstr("fp8 weights are dequantized: no FP8 units"));
  }
  {
    const Capability ada(8, 9);
    EXPECT_EQ(stored(e4m3), Storage::kCodes);
    EXPECT_EQ(stored(block), Storage::kTiled);
    EXPECT_THAT(MakeBackend()->Info().why, EndsWith("fp8 weights by tensor and row"));
  }
  const Capability hopper(9, 0);
  EXPECT_EQ(stored(block), Storage::kCodes);
  RandomSpec odd = int8;
  odd.rows = 40;  // no multiple of 16
  EXPECT_EQ(stored(odd), Storage::kTiled);
  EXPECT_EQ(stored({.format = Format::kInt8, .rows = 48, .cols = 256, .group = 32}),
            Storage::kTiled);
}

// Whoever asks for the exact codes of the weights only gets them.
TEST(W8A8, IsOffUnlessAskedFor) {
  const Capability hopper(9, 0);
  const auto backend = CreateCudaBackend({}).value();
  const auto weight = backend->Pack(quant::RandomMatrix(Cases()[0].spec, 1)).value();
  EXPECT_EQ(static_cast<const CudaMatrix&>(*weight).stored().storage, Storage::kTiled);
  EXPECT_NE(backend->packed_layout().name, MakeBackend()->packed_layout().name);
}

TEST(W8A8, PackedBytesMakeTheSameMatrix) {
  const Capability hopper(9, 0);
  const auto backend = MakeBackend();
  for (const Case& test : Cases()) {
    const auto matrix = backend->Pack(quant::RandomMatrix(test.spec, 2)).value();
    const PackedBytes bytes = backend->ToBytes(*matrix);
    const auto again = backend->FromBytes(bytes, nullptr).value();
    EXPECT_EQ(backend->ToBytes(*again).header, bytes.header);
    EXPECT_EQ(backend->ToBytes(*again).sections[0], bytes.sections[0]);
  }
}

// Codes that another device packed: whoever loads them packs again.
TEST(W8A8, PackedBytesOfAnotherDeviceAreRefused) {
  PackedBytes bytes;
  std::unique_ptr<Backend> hopper;
  std::unique_ptr<PackedMatrix> matrix;
  {
    const Capability capability(9, 0);
    hopper = MakeBackend();
    matrix = hopper->Pack(quant::RandomMatrix(Cases()[4].spec, 2)).value();
    bytes = hopper->ToBytes(*matrix);
  }
  const Capability ampere(8, 0);
  const absl::Status status = MakeBackend()->FromBytes(bytes, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("8-bit codes of 144 x 384"));
}

// Rows of an embedding that is stored so.
TEST(W8A8, EmbedsWhatTheCodesSay) {
  const Capability hopper(9, 0);
  const auto backend = MakeBackend();
  for (const Case& test : Cases()) {
    const quant::Matrix matrix = quant::RandomMatrix(test.spec, 2);
    const auto table = backend->Pack(matrix).value();
    const DeviceArray<int32_t> ids(std::vector<int32_t>{47, 0});
    const DeviceArray<uint16_t> out(static_cast<size_t>(2) * matrix.cols);
    EmbedParams params;
    params.table = table.get();
    params.ids = ids.data();
    params.out = {.data = out.data(), .rows = 2, .cols = matrix.cols};
    params.out.stride = matrix.cols;
    params.out.dtype = DType::kF16;
    backend->Embed(params);
    ASSERT_TRUE(backend->Synchronize().ok()) << TheGpu().TakeFault();
    const std::vector<uint16_t> got = out.Read();
    std::vector<float> row(matrix.cols);
    for (const int32_t id : {47, 0}) {
      quant::DequantizeRow(matrix, id, row.data());
      for (int32_t c = 0; c < matrix.cols; ++c)
        ASSERT_EQ(got[(id == 47 ? 0 : matrix.cols) + c], F32ToF16(row[c])) << test.name;
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
