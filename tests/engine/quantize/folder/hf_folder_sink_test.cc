// A whole model through the sink, opened again as a folder: every value is the one that was given.
#include "engine/quantize/folder/hf_folder_sink.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "engine/gguf_model.h"
#include "engine/hf_folder_files.h"
#include "engine/hf_model.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/methods/double_quantization.h"
#include "engine/quantize/methods/grid.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "kernels/half.h"
#include "tests/engine/model/tiny_decoder.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string FreshPath(absl::string_view name) {
  const fs::path parent =
      fs::path(::testing::TempDir()) / absl::StrCat("nibble_sink_", getpid(), "_", name);
  fs::remove_all(parent);
  fs::create_directories(parent);
  return (parent / "model").string();
}

ModelConfig Config() {
  ModelConfig config = TinyConfig();
  config.architecture = "llama";
  config.hidden_size = 128;
  config.ffn_size = 256;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = config.rotary_dim = 32;
  config.rope_layout = RopeLayout::kInterleaved;
  return config;
}

// The driver's part: every tensor, once, in GGUF's order of rows.
class Driver {
 public:
  Driver(const ModelConfig& config, const Method& method) : weights_(config, 7) {
    plan_.config = config;
    plan_.method = method;
  }

  absl::Status Run(HfFolderSink& sink) {
    for (const TensorShape& shape : NeededTensors(plan_.config)) {
      ModelTensor tensor;
      tensor.name = shape.name;
      tensor.shape = shape.shape;
      tensor.source = GgmlType::kF16;
      tensor.coded = plan_.method.activations == Activations::kF32 &&
                     absl::StrContains(shape.name, "blk") && shape.shape.size() == 2 &&
                     sink.WantsCodes(shape.name);
      plan_.tensors.push_back(tensor);
    }
    absl::Status status = sink.Accepts(plan_.method);
    if (status.ok()) status = sink.Begin(plan_);
    for (const ModelTensor& tensor : plan_.tensors) {
      if (status.ok()) status = tensor.coded ? Codes(tensor, sink) : Rows(tensor, sink);
    }
    return status.ok() ? sink.Finish(tensor_errors_) : status;
  }

  const std::map<std::string, MatrixF>& given() const { return given_; }
  const std::map<std::string, double>& errors() const { return errors_; }
  Provenance& provenance() { return plan_.provenance; }
  std::vector<TensorError>& tensor_errors() { return tensor_errors_; }
  TinyWeights& weights() { return weights_; }

 private:
  MatrixF Values(const ModelTensor& tensor) const {
    const std::vector<float>& values = weights_.Get(tensor.name).values;
    const int64_t cols = tensor.shape.back();
    return Eigen::Map<const MatrixF>(values.data(), static_cast<int64_t>(values.size()) / cols,
                                     cols);
  }

  absl::Status Codes(const ModelTensor& tensor, HfFolderSink& sink) {
    const QuantizedWeight weight = RoundToNearest(Values(tensor), plan_.method.scheme, 1);
    given_[tensor.name] = Dequantize(weight);
    return sink.Codes(tensor.name, weight);
  }

  absl::Status Rows(const ModelTensor& tensor, HfFolderSink& sink) {
    const MatrixF values = Values(tensor);
    given_[tensor.name] = values;
    constexpr int64_t kAtOnce = 13;  // no divisor of anything
    for (int64_t first = 0; first < values.rows(); first += kAtOnce) {
      const int64_t count = std::min(kAtOnce, values.rows() - first);
      const auto error = sink.Rows(tensor.name, first, values.middleRows(first, count));
      if (!error.ok()) return error.status();
      errors_[tensor.name] += *error;
    }
    return absl::OkStatus();
  }

  ModelPlan plan_;
  TinyWeights weights_;
  std::vector<TensorError> tensor_errors_;
  std::map<std::string, MatrixF> given_;
  std::map<std::string, double> errors_;
};

HfFolderOptions Options(absl::string_view name, HfLayout layout, const ModelConfig& config) {
  return {.output = FreshPath(name),
          .layout = layout,
          .config_json = HfConfigJson(config, TokenizerSpec()).value(),
          .files = {{"tokenizer.json", "{}"}}};
}

// A folder that was written, read as the engine reads it.
struct Opened {
  std::unique_ptr<HfModel> model;
  ModelConfig config;
  std::unique_ptr<HfSource> source;

  explicit Opened(const std::string& path) : model(HfModel::Open(path).value()) {
    EXPECT_EQ(ReadHfConfig(model->config(), path, config), absl::OkStatus());
    source = model->Source(config);
    EXPECT_EQ(CheckHfTensors(*source, path, config), absl::OkStatus());
  }

  MatrixF Values(const std::string& name, const MatrixF& like) const {
    if (like.rows() == 1) {
      const auto values = source->LoadVector(name, static_cast<int32_t>(like.cols())).value();
      return Eigen::Map<const MatrixF>(values.data(), 1, like.cols());
    }
    return LoadDense(*source, name, static_cast<int32_t>(like.rows()),
                     static_cast<int32_t>(like.cols()))
        .value();
  }
};

MatrixF InF16(const MatrixF& values) {
  return values.unaryExpr([](float x) { return F16ToF32(F32ToF16(x)); });
}

struct Case {
  const char* method;
  HfLayout layout;
};

class Folder : public ::testing::TestWithParam<Case> {};

// What must be read of a tensor that was given so.
MatrixF Expected(const MatrixF& given, bool packed, const Method& method) {
  if (given.rows() == 1) return given;  // vectors
  if (!packed) return InF16(given);
  if (method.activations == Activations::kF32) return given;
  return Dequantize(RoundToNearest(given, method.scheme, 1));
}

void ExpectHeld(const ModelConfig& config, const Case& held) {
  const Method method = *InLayout(held.layout, *ParseMethod(held.method));
  Driver driver(config, method);
  const HfFolderOptions options = Options("held", held.layout, config);
  HfFolderSink sink(options);
  ASSERT_EQ(driver.Run(sink), absl::OkStatus());
  const Opened opened(options.output);
  for (const auto& [name, given] : driver.given()) {
    const bool packed = sink.WantsCodes(name);
    const MatrixF expected = Expected(given, packed, method);
    EXPECT_EQ(opened.Values(name, given), expected) << name;
    if (driver.errors().count(name) == 0) continue;
    const double error = (given - expected).cast<double>().squaredNorm();
    EXPECT_NEAR(driver.errors().at(name), error, 1e-12 * error) << name;
  }
}

TEST_P(Folder, HoldsWhatItWasGiven) {
  ExpectHeld(Config(), GetParam());
  ModelConfig qwen = Config();  // rows as they are, biases, no head of its own
  qwen.architecture = "qwen2";
  qwen.rope_layout = RopeLayout::kHalf;
  qwen.qkv_bias = qwen.tied_head = true;
  ExpectHeld(qwen, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Layouts, Folder,
                         ::testing::Values(Case{"rtn-int4-full-g128", HfLayout::kPlain},
                                           Case{"rtn-int4-full-g128", HfLayout::kGptq},
                                           Case{"rtn-int3-asym-g64", HfLayout::kGptqV2},
                                           Case{"rtn-int8-sym-channel", HfLayout::kGptq},
                                           Case{"rtn-int4-asym-g64", HfLayout::kAwq},
                                           Case{"rtn-int4-asym-g32", HfLayout::kCompressedTensors},
                                           Case{"rtn-e4m3-channel", HfLayout::kCompressedTensors},
                                           Case{"w8a8", HfLayout::kCompressedTensors},
                                           Case{"rtn-nf4-b64", HfLayout::kBitsAndBytes},
                                           Case{"llm-int8", HfLayout::kBitsAndBytes},
                                           Case{"rtn-e4m3-tensor", HfLayout::kFp8},
                                           Case{"rtn-e4m3-block", HfLayout::kFp8}),
                         [](const auto& info) {
                           std::string name = absl::StrCat(info.param.method, "_as_",
                                                           LayoutName(info.param.layout));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Scales of scales belong to 256 blocks in the folder's order of rows: bitsandbytes quantizes the
// matrix as it lies there, and so does the sink.
TEST(HfFolderSink, DoubleQuantizationFollowsTheFoldersRows) {
  ModelConfig config = Config();
  config.hidden_size = 512;  // 256 blocks are 16 rows, half a head
  const Method method = *ParseMethod("rtn-nf4-b32-dq");
  Driver driver(config, method);
  const HfFolderOptions options = Options("double", HfLayout::kBitsAndBytes, config);
  HfFolderSink sink(options);
  ASSERT_EQ(driver.Run(sink), absl::OkStatus());
  const Opened opened(options.output);
  int turned = 0;
  for (const auto& [name, given] : driver.given()) {
    if (!sink.WantsCodes(name)) continue;
    const MatrixF read = opened.Values(name, given);
    if (!absl::StrContains(name, "attn_q") && !absl::StrContains(name, "attn_k")) {
      EXPECT_EQ(read, given) << name;
      continue;
    }
    // The matrix as the folder has it, quantized there, and turned back.
    const auto& source = driver.weights().Get(name);
    MatrixF halves(source.rows, source.cols), expected(source.rows, source.cols);
    for (int32_t n = 0; n < source.rows; ++n) {
      halves.row(HalfRowOf(n, config.head_dim)) = Eigen::Map<const Eigen::RowVectorXf>(
          source.values.data() + static_cast<size_t>(n) * source.cols, source.cols);
    }
    const MatrixF values = Dequantize(RoundToNearest(halves, method.scheme, 1));
    for (int32_t n = 0; n < source.rows; ++n) {
      expected.row(n) = values.row(HalfRowOf(n, config.head_dim));
    }
    EXPECT_EQ(read, expected) << name;
    turned += read != given ? 1 : 0;
  }
  EXPECT_GT(turned, 0) << "the two orders give the same scales: the test shows nothing";
}

nlohmann::json Json(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

TEST(HfFolderSink, TheFolderSaysWhatItIsAndHowItCameToBe) {
  const ModelConfig config = Config();
  Driver driver(config, *ParseMethod("rtn-int4-full-g64"));
  driver.provenance() = {.source_sha256 = "abc",
                         .method = "rtn-int4-full-g64",
                         .options = "--threads 2",
                         .importance_sha256 = "",
                         .calibration_sha256 = "",
                         .tool = "nibble 9"};
  driver.tensor_errors() = {{"blk.0.attn_q.weight", 0.25}, {"output_norm.weight", 0}};
  HfFolderOptions options = Options("says", HfLayout::kGptq, config);
  nlohmann::json source = nlohmann::json::parse(options.config_json);
  source["quantization_config"] = {{"quant_method", "awq"}};  // the source's, now wrong
  source["dtype"] = "bfloat16";
  source["unknown"] = {1, 2};
  options.config_json = source.dump();
  options.max_shard_bytes = 100000;
  HfFolderSink sink(options);
  ASSERT_EQ(driver.Run(sink), absl::OkStatus());
  const nlohmann::json written = Json(options.output + "/config.json");
  EXPECT_EQ(written["quantization_config"]["quant_method"], "gptq");
  EXPECT_EQ(written["quantization_config"]["group_size"], 64);
  EXPECT_EQ(written["dtype"], "float16");
  EXPECT_EQ(written["unknown"], source["unknown"]);
  EXPECT_TRUE(fs::exists(options.output + "/tokenizer.json"));
  const nlohmann::json how = Json(options.output + "/nibble_quantize.json");
  EXPECT_EQ(how["nibble.quantize.source_sha256"], "abc");
  EXPECT_EQ(how["nibble.quantize.method"], "rtn-int4-full-g64");
  EXPECT_EQ(how["nibble.quantize.layout"], "gptq");
  EXPECT_EQ(how["nibble.quantize.tensors"], nlohmann::json({"blk.0.attn_q.weight"}));
  EXPECT_EQ(how["nibble.quantize.tensor_errors"], nlohmann::json({0.25}));
  EXPECT_FALSE(how.contains("nibble.quantize.calibration_sha256"));
  // In shards, which the index names.
  EXPECT_GT(Opened(options.output).model->tensors().files().size(), 1u);
  EXPECT_FALSE(fs::exists(options.output + ".partial"));
}

// Linear layers that stay as they are, are named where others look for it.
TEST(HfFolderSink, AHeadOfItsOwnIsNamedAsNotQuantized) {
  for (const auto& [layout, method, key] :
       std::vector<std::tuple<HfLayout, const char*, const char*>>{
           {HfLayout::kAwq, "rtn-int4-asym-g64", "modules_to_not_convert"},
           {HfLayout::kCompressedTensors, "rtn-int4-asym-g64", "ignore"},
           {HfLayout::kBitsAndBytes, "rtn-nf4-b64", "llm_int8_skip_modules"},
           {HfLayout::kFp8, "rtn-e4m3-block", "modules_to_not_convert"},
           {HfLayout::kFp8, "rtn-e4m3-tensor", "ignored_layers"}}) {
    ModelConfig config = Config();
    Driver driver(config, *InLayout(layout, *ParseMethod(method)));
    const HfFolderOptions options = Options("head", layout, config);
    HfFolderSink sink(options);
    ASSERT_EQ(driver.Run(sink), absl::OkStatus());
    const nlohmann::json written = Json(options.output + "/config.json")["quantization_config"];
    EXPECT_EQ(written[key], nlohmann::json::array({"lm_head"})) << written;
  }
}

void ExpectRefused(Driver& driver, const HfFolderOptions& options, absl::string_view message) {
  HfFolderSink sink(options);
  const absl::Status status = driver.Run(sink);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(status.message(), HasSubstr(std::string(message)));
  EXPECT_FALSE(fs::exists(options.output));
}

TEST(HfFolderSink, WhatIsRefusedIsNamedAndNothingStays) {
  const ModelConfig config = Config();
  ModelConfig wide = config;
  wide.head_dim = wide.rotary_dim = 96;  // 128 rows are no whole heads
  Driver blocks(wide, *ParseMethod("rtn-e4m3-block"));
  ExpectRefused(blocks, Options("blocks", HfLayout::kFp8, wide), "blk.0.attn_q.weight");
  ModelConfig narrow = config;
  narrow.ffn_size = 100;
  Driver words(narrow, *ParseMethod("rtn-int4-full-channel"));
  ExpectRefused(words, Options("words", HfLayout::kGptq, narrow), "tensor 'blk.0.ffn_gate.weight'");
  Driver large(config, *ParseMethod("rtn-int4-full-g64"));
  large.weights().Set("output.weight", 5, 70000.0f);
  const HfFolderOptions options = Options("large", HfLayout::kGptq, config);
  ExpectRefused(large, options,
                "tensor 'output.weight': value 70000 is beyond F16, which its matrix has in the "
                "folder; a BF16 source");
  EXPECT_TRUE(fs::is_empty(fs::path(options.output).parent_path()));
  Driver nf4(config, *ParseMethod("rtn-nf4-b64"));
  ExpectRefused(nf4, Options("nf4", HfLayout::kGptq, config), "bitsandbytes");
  Driver scales(config, *ParseMethod("rtn-int8-sym-channel"));
  ExpectRefused(scales, Options("scales", HfLayout::kGptq, config), "f32 scales");
}

TEST(HfFolderSink, AFolderThatIsThereIsKept) {
  const ModelConfig config = Config();
  Driver driver(config, *ParseMethod("rtn-int4-full-g64"));
  const HfFolderOptions options = Options("there", HfLayout::kGptq, config);
  fs::create_directories(options.output);
  std::ofstream(options.output + "/mine") << "precious";
  HfFolderSink sink(options);
  EXPECT_EQ(driver.Run(sink).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(options.output + "/mine"));
}

}  // namespace
}  // namespace nibble::quantize
