// One matrix in each quantized layout, packed by the libraries that define them or from their
// descriptions (tests/oracle/checkpoints/record.py), against the values they stand for: bit for
// bit, but for the sign of zeros.
#include <filesystem>

#include "engine/weights/hf/linear_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/matrix.h"

namespace nibble {
namespace {

using quant::Format;

struct Case {
  const char* file;
  Format format;
  bool wider;
};

// A checkpoint's module "m" and what is recorded beside it.
struct Recorded {
  TensorSet set;
  QuantConfig config;
  std::string type;
};

std::string PathOf(absl::string_view file) {
  return std::string(NIBBLE_RECORDED_MATRICES) + "/" + std::string(file) + ".safetensors";
}

Recorded Read(absl::string_view file) {
  std::vector<SafetensorsFile> files;
  files.push_back(SafetensorsFile::Open(PathOf(file)).value());
  std::string config, type;
  for (const auto& [key, value] : files[0].metadata()) {
    if (key == "config") config = value;
    if (key == "type") type = value;
  }
  const JsonObject json = JsonObject::Parse(config, "config.json", {}).value();
  return {TensorSet::Make(std::move(files)).value(), ReadQuantConfig(json).value(), type};
}

void ExpectRows(const quant::Matrix& matrix, absl::Span<const float> expected) {
  ASSERT_TRUE(quant::Validate(matrix).ok()) << quant::Validate(matrix);
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int32_t n = 0; n < matrix.rows; ++n) {
    quant::DequantizeRow(matrix, n, row.data());
    for (int32_t k = 0; k < matrix.cols; ++k) {
      ASSERT_EQ(row[k], expected[static_cast<size_t>(n) * matrix.cols + k])
          << "row " << n << " column " << k;
    }
  }
}

class RecordedMatrix : public ::testing::TestWithParam<Case> {};

TEST_P(RecordedMatrix, ValuesAreTheFormatsToTheBit) {
  const Recorded recorded = Read(GetParam().file);
  const StoredTensor* stored = recorded.set.Find("expected");
  const std::vector<float> expected = stored->Floats(0, stored->num_elements()).value();
  const auto layout = OpenLinear(ModuleTensors(recorded.set, "m"), recorded.config);
  ASSERT_TRUE(layout.ok()) << layout.status();
  const int32_t rows = (*layout)->rows(), cols = (*layout)->cols();
  EXPECT_EQ(stored->shape(), absl::MakeConstSpan(std::vector<int64_t>{rows, cols}));
  EXPECT_EQ((*layout)->type(), recorded.type);
  const quant::Matrix whole = (*layout)->Load(0, rows).value();
  EXPECT_EQ(whole.format, GetParam().format);
  EXPECT_EQ(whole.format, (*layout)->form().format);
  EXPECT_EQ((*layout)->form().wider, GetParam().wider);
  ExpectRows(whole, expected);
  // Parts of the rows are parts of the whole, wherever they begin and end.
  const int32_t step = (*layout)->row_multiple();
  for (int32_t first = 0; first < rows; first += step) {
    for (const int32_t count : {1, 5, rows - first}) {
      if (count > rows - first) continue;
      ExpectRows((*layout)->Load(first, count).value(),
                 absl::MakeConstSpan(expected).subspan(static_cast<size_t>(first) * cols));
    }
  }
}

constexpr Case kCases[] = {
    {"gptq_2bit", Format::kInt4Affine, true},
    {"gptq_3bit", Format::kInt4Affine, true},
    {"gptq_4bit", Format::kInt4Affine, false},
    {"gptq_8bit", Format::kInt8, false},
    {"gptq_v2_2bit", Format::kInt4Affine, true},
    {"gptq_v2_3bit", Format::kInt4Affine, true},
    {"gptq_v2_4bit", Format::kInt4Affine, false},
    {"gptq_v2_8bit", Format::kInt8, false},
    {"gptq_4bit_symmetric", Format::kInt4Affine, false},
    {"gptq_4bit_column", Format::kInt4Affine, false},
    {"gptq_4bit_act_order", Format::kF32, true},
    {"gptq_3bit_act_order", Format::kF32, true},
    {"gptq_4bit_f32_scales", Format::kInt8, true},
    {"gptq_8bit_bf16_scales", Format::kInt8, false},
    {"gptq_8bit_f32_scales", Format::kF32, true},
    {"awq_g32", Format::kInt4Affine, false},
    {"awq_g64", Format::kInt4Affine, false},
    {"packed_2bit", Format::kInt4Affine, true},
    {"packed_2bit_zero_point", Format::kInt4Affine, true},
    {"packed_4bit", Format::kInt4Affine, false},
    {"packed_4bit_zero_point", Format::kInt4Affine, false},
    {"packed_8bit", Format::kInt8, false},
    {"packed_8bit_zero_point", Format::kInt8, false},
    {"packed_4bit_row", Format::kInt4Affine, false},
    {"packed_4bit_f32_scales", Format::kLut4, false},
    {"packed_4bit_f32_zero_point", Format::kInt8, true},
    {"packed_4bit_act_order", Format::kF32, true},
    {"packed_8bit_f32_scales", Format::kInt8, false},
    {"int8_row", Format::kInt8, false},
    {"int8_tensor", Format::kInt8, false},
    {"int8_zero_point", Format::kInt8, false},
    {"fp8_scalar", Format::kFp8, false},
    {"fp8_tensor_bf16", Format::kFp8, false},
    {"fp8_e5m2", Format::kFp8, false},
    {"fp8_row", Format::kFp8, false},
    {"fp8_block", Format::kFp8, false},
    {"fp8_deepseek", Format::kFp8, false},
    {"nf4", Format::kLut4, false},
    {"nf4_double", Format::kLut4, false},
    {"fp4", Format::kLut4, false},
    {"nf4_rows_in_blocks", Format::kLut4, false},
    {"llm_int8", Format::kInt8, false},
};
INSTANTIATE_TEST_SUITE_P(Layouts, RecordedMatrix, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.file); });

TEST(RecordedMatrices, NoneIsLeftOut) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(NIBBLE_RECORDED_MATRICES)) {
    files += entry.path().extension() == ".safetensors" ? 1 : 0;
  }
  EXPECT_EQ(files, std::size(kCases));
}

// Rows in another order keep their codes, scales and zero points together, in every layout whose
// scales do not cover many rows.
TEST(RecordedMatrices, GatheredRowsKeepTheirScalesAndZeros) {
  for (const Case& recorded_case : kCases) {
    SCOPED_TRACE(recorded_case.file);
    const Recorded recorded = Read(recorded_case.file);
    const auto layout = OpenLinear(ModuleTensors(recorded.set, "m"), recorded.config).value();
    if (layout->row_multiple() != 1) continue;
    const quant::Matrix matrix = layout->Load(0, layout->rows()).value();
    const std::vector<int32_t> order = {3, 0, 31, 17, 3, 8};
    const quant::Matrix gathered = GatherRows(matrix, order).value();
    ASSERT_TRUE(quant::Validate(gathered).ok()) << quant::Validate(gathered);
    std::vector<float> found(static_cast<size_t>(matrix.cols)), needed = found;
    for (size_t i = 0; i < order.size(); ++i) {
      quant::DequantizeRow(gathered, static_cast<int32_t>(i), found.data());
      quant::DequantizeRow(matrix, order[i], needed.data());
      EXPECT_EQ(found, needed) << "row " << i;
    }
  }
}

TEST(RecordedMatrices, RowsThatShareAScaleAreNotTornApart) {
  const Recorded recorded = Read("fp8_block");
  const auto layout = OpenLinear(ModuleTensors(recorded.set, "m"), recorded.config).value();
  const quant::Matrix matrix = layout->Load(0, 144).value();
  std::vector<int32_t> within(128);
  for (int32_t i = 0; i < 128; ++i) within[i] = 127 - i;
  EXPECT_TRUE(GatherRows(matrix, within).ok());
  within[5] = 130;
  EXPECT_EQ(GatherRows(matrix, within).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble
