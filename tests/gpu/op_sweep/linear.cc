// Linears of the 8B shape, as a layer calls them: every format of weight, by rows of x.
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "engine/base/status_macros.h"
#include "kernels/quant/matrix.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

using quant::Format;

struct Weight {
  const char* name;
  Format format;
  int32_t group;  // 0: one scale a row, or none
};
constexpr Weight kWeights[] = {
    {"int4-g128", Format::kInt4Affine, 128},
    {"nf4-g64", Format::kLut4, 64},
    {"int8", Format::kInt8, 0},
    {"fp8", Format::kFp8, 0},
    {"bf16", Format::kBf16, 0},
};

// The matrices of one call, as a layer has them.
struct Shape {
  const char* name;
  std::vector<int32_t> outs;
  int32_t in;
};
int32_t OutOf(const Shape& shape) {
  return std::accumulate(shape.outs.begin(), shape.outs.end(), 0);
}

std::vector<Shape> Shapes(const Options& options) {
  if (options.small) return {{"small", {192, 64}, 128}};
  return {{"qkv", {4096, 1024, 1024}, 4096},
          {"o", {4096}, 4096},
          {"gate_up", {14336, 14336}, 4096},
          {"down", {4096}, 14336}};
}
std::vector<int32_t> RowCounts(const Options& options) {
  if (options.small) return {1, 3};
  return {1, 8, 16, 32, 64, 128, 256, 1024};
}

// One random number a byte: a second for the largest.
quant::Matrix RandomWeight(const Weight& weight, int32_t out, int32_t in) {
  const size_t elements = static_cast<size_t>(out) * in;
  const bool floats = weight.format == Format::kBf16;
  const bool nibbles = weight.format == Format::kInt4Affine || weight.format == Format::kLut4;
  quant::Matrix matrix{.format = weight.format, .rows = out, .cols = in};
  matrix.group = floats ? 0 : (weight.group == 0 ? in : weight.group);
  matrix.codes.resize(floats ? elements * 2 : (nibbles ? elements / 2 : elements));
  std::mt19937 random(11);
  // Of e4m3 0x7F is no number; bf16 from 1 to 2 is f16 too, which a backend may want.
  const uint8_t mask = weight.format == Format::kFp8 ? 0xBF : 0xFF;
  for (uint8_t& code : matrix.codes) code = static_cast<uint8_t>(random() >> 8) & mask;
  for (size_t i = 0; floats && i < matrix.codes.size(); i += 2) {
    matrix.codes[i] |= 0x80;
    matrix.codes[i + 1] = (matrix.codes[i + 1] & 0x80) | 0x3F;
  }
  if (!floats) matrix.scales.assign(elements / matrix.group, 1.0f / 64);
  for (int i = 0; i < 16; ++i) matrix.table[i] = static_cast<float>(i - 8) / 8;
  return matrix;
}

using Matrices = std::vector<std::unique_ptr<PackedMatrix>>;

int64_t BytesOf(const Matrices& matrices) {
  int64_t bytes = 0;
  for (const auto& matrix : matrices) bytes += matrix->size_bytes();
  return bytes;
}

// As many equal sets of a call's matrices as it takes to come from memory each time.
absl::StatusOr<std::vector<Matrices>> Copies(Backend& backend, const Options& options,
                                             const Weight& weight, const Shape& shape) {
  std::vector<Matrices> copies(1);
  for (const int32_t out : shape.outs) {
    NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> matrix,
                            backend.Pack(RandomWeight(weight, out, shape.in)));
    copies[0].push_back(std::move(matrix));
  }
  const int64_t wanted = options.small ? 2 : options.cold_bytes / BytesOf(copies[0]) + 2;
  std::vector<PackedBytes> bytes;
  for (const auto& matrix : copies[0]) bytes.push_back(backend.ToBytes(*matrix));
  while (static_cast<int64_t>(copies.size()) < wanted) {
    Matrices& copy = copies.emplace_back();
    for (const PackedBytes& of_matrix : bytes) {
      NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<PackedMatrix> matrix,
                              backend.FromBytes(of_matrix, nullptr));
      copy.push_back(std::move(matrix));
    }
  }
  return copies;
}

absl::Status TimeLinear(Backend& backend, const Options& options, const Weight& weight,
                        const Shape& shape, const std::vector<Matrices>& copies, int32_t rows,
                        Report report) {
  const DType dtype = backend.activation_dtype();
  NIBBLE_ASSIGN_OR_RETURN(const Rows x, Rows::Create(backend, dtype, rows, shape.in, 1));
  NIBBLE_ASSIGN_OR_RETURN(const Rows y, Rows::Create(backend, dtype, rows, OutOf(shape), 2));
  Figure figure{.op = "linear", .variant = weight.name, .shape = shape.name, .rows = rows};
  figure.bytes = BytesOf(copies[0]) +
                 int64_t{rows} * (shape.in + OutOf(shape)) * static_cast<int64_t>(SizeOf(dtype));
  figure.flops = 2 * int64_t{rows} * shape.in * OutOf(shape);
  const auto step = [&] {
    for (const Matrices& copy : copies) {
      std::vector<const PackedMatrix*> weights;
      for (const auto& matrix : copy) weights.push_back(matrix.get());
      LinearParams params;
      params.x = x.tensor();
      params.y = y.tensor();
      params.weights = weights;
      backend.Linear(params);
    }
  };
  NIBBLE_RETURN_IF_ERROR(
      Time(backend, options, {rows, rows}, static_cast<int32_t>(copies.size()), step, figure));
  report(figure);
  return absl::OkStatus();
}

}  // namespace

absl::Status SweepLinear(const MakeBackend& make, const Options& options, Report report) {
  for (const Weight& weight : kWeights) {
    for (const Shape& shape : Shapes(options)) {
      NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
      NIBBLE_ASSIGN_OR_RETURN(const auto copies, Copies(*backend, options, weight, shape));
      for (const int32_t rows : RowCounts(options)) {
        NIBBLE_RETURN_IF_ERROR(TimeLinear(*backend, options, weight, shape, copies, rows, report));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace nibble::sweep
