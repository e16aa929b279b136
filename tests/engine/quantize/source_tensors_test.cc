#include "engine/quantize/source_tensors.h"

#include <gtest/gtest.h>

#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

// A GGUF file seen directly, and through WeightSource as folders are.
class SourceTensorsTest : public ::testing::Test {
 protected:
  static std::vector<uint8_t> Bytes(GgmlType type) {
    testing::TinyModelOptions options;
    options.matrix_type = options.embedding_type = type;
    return testing::TinyModel(options).Build();
  }
};

TEST_F(SourceTensorsTest, AnotherSourceGivesTheSameBlocksInTheOrderAskedFor) {
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBF16}) {
    const std::vector<uint8_t> bytes = Bytes(type);
    const GgufFile file = GgufFile::Parse(bytes, "tiny").value();
    const std::unique_ptr<WeightSource> weights = MakeGgufSource(file);
    const auto direct = MakeSourceTensors(file);
    const std::vector<std::string> order = {"output_norm.weight", "blk.1.ffn_up.weight",
                                            "token_embd.weight"};
    const auto other = MakeSourceTensors(*weights, ModelConfig(), "other", order, {1, 2});
    ASSERT_EQ(other->tensors().size(), 4u);
    EXPECT_EQ(other->tensors()[3].name, "rope_freqs.weight");
    for (size_t t = 0; t < 3; ++t) {
      const SourceTensor& tensor = other->tensors()[t];
      EXPECT_EQ(tensor.name, order[t]);
      EXPECT_FALSE(tensor.quantized);
      size_t same = 0;
      while (direct->tensors()[same].name != tensor.name) ++same;
      EXPECT_EQ(tensor.dims, direct->tensors()[same].dims);
      EXPECT_EQ(tensor.ggml_type, direct->tensors()[same].ggml_type);
      const int64_t rows = tensor.num_elements / tensor.dims[0];
      std::vector<uint8_t> a, b;
      EXPECT_EQ(*direct->ReadRows(same, 0, rows, a), *other->ReadRows(t, 0, rows, b))
          << tensor.name;
    }
  }
}

TEST_F(SourceTensorsTest, QuantizedMatricesAreSaidToBe) {
  const std::vector<uint8_t> bytes = Bytes(GgmlType::kQ4_1);
  const GgufFile file = GgufFile::Parse(bytes, "tiny").value();
  const std::unique_ptr<WeightSource> weights = MakeGgufSource(file);
  const std::vector<std::string> order = {"blk.0.attn_q.weight", "blk.0.attn_norm.weight"};
  const auto other = MakeSourceTensors(*weights, ModelConfig(), "other", order, {});
  EXPECT_TRUE(other->tensors()[0].quantized);
  EXPECT_EQ(other->tensors()[0].ggml_type, static_cast<int32_t>(GgmlType::kF32));
  EXPECT_FALSE(other->tensors()[1].quantized);
  const auto direct = MakeSourceTensors(file);
  EXPECT_EQ(direct->counts().layers, 2);
  EXPECT_EQ(direct->counts().kv_heads, 2);
}

}  // namespace
}  // namespace nibble
