// Writes folders as `nibble quantize` does, one for each layout and scheme, and what our reader
// takes their matrices for, so that others' readers can be held against it (compare_written.py).
//
//   written_folders write DIR             DIR/<layout>.<method>/
//   written_folders seeds DIR             DIR/<layout>.<method>: one matrix each, as module "m",
//   the
//                                         configuration in its metadata
//                                         (tests/fuzz/safetensors_fuzz.cc)
//   written_folders values FOLDER FILE    FILE: safetensors with every tensor in F32, by the
//   modules'
//                                         names, rows as the folder has them
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/gguf_model.h"
#include "engine/hf_folder_files.h"
#include "engine/hf_model.h"
#include "engine/quantize/folder/hf_folder_sink.h"
#include "engine/quantize/methods/round_to_nearest.h"

namespace nibble::quantize {
namespace {

struct Sample {
  HfLayout layout;
  const char* method;
};
constexpr Sample kSamples[] = {
    {HfLayout::kPlain, "rtn-int4-full-g32"},
    {HfLayout::kGptq, "rtn-int2-full-g64"},
    {HfLayout::kGptq, "rtn-int3-sym-g32"},
    {HfLayout::kGptq, "rtn-int4-full-g128"},
    {HfLayout::kGptq, "rtn-int4-sym-channel"},
    {HfLayout::kGptq, "gptq-gidx-int4-full-g32"},
    {HfLayout::kGptq, "rtn-int8-sym-g64"},
    {HfLayout::kGptqV2, "rtn-int2-asym-g32"},
    {HfLayout::kGptqV2, "rtn-int3-asym-g64"},
    {HfLayout::kGptqV2, "rtn-int4-asym-g64"},
    {HfLayout::kGptqV2, "gptq-gidx-int4-asym-g32"},
    {HfLayout::kGptqV2, "rtn-int8-asym-g32"},
    {HfLayout::kAwq, "rtn-int4-asym-g64"},
    {HfLayout::kAwq, "rtn-int4-full-g128"},
    {HfLayout::kCompressedTensors, "rtn-int2-full-g32"},
    {HfLayout::kCompressedTensors, "rtn-int4-sym-g128"},
    {HfLayout::kCompressedTensors, "rtn-int4-asym-g64"},
    {HfLayout::kCompressedTensors, "rtn-int4-full-channel"},
    {HfLayout::kCompressedTensors, "rtn-int8-sym-channel"},
    {HfLayout::kCompressedTensors, "rtn-int8-asym-g32"},
    {HfLayout::kCompressedTensors, "rtn-int8-sym-tensor"},
    {HfLayout::kCompressedTensors, "rtn-int8-asym-tensor"},
    {HfLayout::kCompressedTensors, "w8a8"},
    {HfLayout::kCompressedTensors, "rtn-e4m3-tensor"},
    {HfLayout::kCompressedTensors, "rtn-e4m3-channel"},
    {HfLayout::kCompressedTensors, "rtn-e4m3-block"},
    {HfLayout::kBitsAndBytes, "rtn-nf4-b64"},
    {HfLayout::kBitsAndBytes, "rtn-nf4-b64-dq"},
    {HfLayout::kBitsAndBytes, "rtn-fp4-b64"},
    {HfLayout::kBitsAndBytes, "rtn-fp4-b128-dq"},
    {HfLayout::kBitsAndBytes, "llm-int8"},
    {HfLayout::kFp8, "rtn-e4m3-tensor"},
    {HfLayout::kFp8, "rtn-e4m3-block"},
    {HfLayout::kFp8, "rtn-e5m2-tensor"},
};

// Small, and no side a power of two where the layouts allow it.
ModelConfig SampleConfig() {
  ModelConfig config;
  config.architecture = "llama";
  config.num_layers = 2;
  config.hidden_size = 384;
  config.ffn_size = 640;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = config.rotary_dim = 64;
  config.vocab_size = 99;
  config.context_length = config.rope_original_context = 128;
  return config;
}

MatrixF Random(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> student(5);
  return MatrixF::NullaryExpr(rows, cols, [&] { return 0.02f * student(random); });
}

bool IsPacked(const TensorShape& tensor) {
  return absl::StartsWith(tensor.name, "blk.") && tensor.shape.size() == 2;
}

absl::Status Feed(const ModelPlan& plan, HfFolderSink& sink) {
  uint32_t seed = 1;
  for (const ModelTensor& tensor : plan.tensors) {
    const bool matrix = tensor.shape.size() == 2;
    const MatrixF values = Random(matrix ? tensor.shape[0] : 1, tensor.shape.back(), seed);
    if (!tensor.coded) {
      NIBBLE_RETURN_IF_ERROR(sink.Rows(tensor.name, 0, values).status());
    } else {
      QuantizedWeight weight = RoundToNearest(values, plan.method.scheme, 1);
      if (plan.method.order == ColumnOrder::kByActivationGIndex) {
        for (int32_t k = 0; k < weight.cols; ++k) {
          weight.group_of_column.push_back(k / weight.tile.cols);
        }
        std::shuffle(weight.group_of_column.begin(), weight.group_of_column.end(),
                     std::mt19937(seed));
      }
      NIBBLE_RETURN_IF_ERROR(sink.Codes(tensor.name, weight));
    }
    ++seed;
  }
  return absl::OkStatus();
}

absl::Status WriteSample(const Sample& sample, const std::string& folder) {
  ModelPlan plan;
  plan.config = SampleConfig();
  NIBBLE_ASSIGN_OR_RETURN(plan.method, ParseMethod(sample.method));
  NIBBLE_ASSIGN_OR_RETURN(plan.method, InLayout(sample.layout, plan.method));
  HfFolderOptions options;
  options.output = absl::StrCat(folder, "/", LayoutName(sample.layout), ".", sample.method);
  options.layout = sample.layout;
  NIBBLE_ASSIGN_OR_RETURN(options.config_json, HfConfigJson(plan.config, TokenizerSpec()));
  options.max_shard_bytes = 4 << 20;
  HfFolderSink sink(std::move(options));
  for (const TensorShape& tensor : NeededTensors(plan.config)) {
    plan.tensors.push_back({.name = tensor.name,
                            .shape = tensor.shape,
                            .source = GgmlType::kF16,
                            .coded = plan.method.activations == Activations::kF32 &&
                                     IsPacked(tensor) && sink.WantsCodes(tensor.name)});
  }
  NIBBLE_RETURN_IF_ERROR(sink.Accepts(plan.method));
  NIBBLE_RETURN_IF_ERROR(sink.Begin(plan));
  NIBBLE_RETURN_IF_ERROR(Feed(plan, sink));
  return sink.Finish({});
}

absl::Status Write(const std::string& folder) {
  for (const Sample& sample : kSamples) NIBBLE_RETURN_IF_ERROR(WriteSample(sample, folder));
  return absl::OkStatus();
}

absl::Status WriteSeed(const Sample& sample, const std::string& folder) {
  constexpr int32_t kRows = 32, kCols = 128;
  NIBBLE_ASSIGN_OR_RETURN(Method method, ParseMethod(sample.method));
  NIBBLE_ASSIGN_OR_RETURN(method, InLayout(sample.layout, method));
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<MatrixPacking> packing,
                          MakePacking(sample.layout, method));
  if (packing == nullptr) return absl::OkStatus();
  const QuantizedWeight weight = RoundToNearest(Random(kRows, kCols, 1), method.scheme, 1);
  NIBBLE_ASSIGN_OR_RETURN(const auto parts, packing->Pack(weight));
  std::vector<SafetensorsTensorPlan> plan;
  for (const PackedTensor& part : packing->Plan(kRows, kCols)) {
    plan.push_back({absl::StrCat("m.", part.suffix), part.type, part.shape});
  }
  const std::string path = absl::StrCat(folder, "/", LayoutName(sample.layout), ".", sample.method);
  NIBBLE_ASSIGN_OR_RETURN(
      SafetensorsFileWriter writer,
      SafetensorsFileWriter::Create(path, {{"config", packing->Config({}).dump()}}, plan));
  for (size_t i = 0; i < parts.size(); ++i) NIBBLE_RETURN_IF_ERROR(writer.Write(i, 0, parts[i]));
  return writer.Finish();
}

absl::Status Seeds(const std::string& folder) {
  for (const Sample& sample : kSamples) NIBBLE_RETURN_IF_ERROR(WriteSeed(sample, folder));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ValuesOf(const HfSource& source, const TensorReport& tensor) {
  const auto rows = static_cast<int32_t>(tensor.shape[0]);
  if (tensor.shape.size() == 1) return source.LoadVector(tensor.name, rows);
  const auto cols = static_cast<int32_t>(tensor.shape[1]);
  NIBBLE_ASSIGN_OR_RETURN(const quant::Matrix matrix, source.LoadMatrix(tensor.name, rows, cols));
  std::vector<float> values(static_cast<size_t>(rows) * cols);
  for (int32_t n = 0; n < rows; ++n) {
    quant::DequantizeRow(matrix, n, values.data() + static_cast<size_t>(n) * cols);
  }
  return values;
}

absl::Status Values(const std::string& path, const std::string& file) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<HfModel> model, HfModel::Open(path));
  ModelConfig config;
  NIBBLE_RETURN_IF_ERROR(ReadHfConfig(model->config(), path, config));
  config.rope_layout = RopeLayout::kHalf;  // rows as they are
  const std::unique_ptr<HfSource> source = model->Source(config);
  NIBBLE_RETURN_IF_ERROR(CheckHfTensors(*source, path, config));
  std::vector<SafetensorsTensorPlan> plan;
  const std::vector<TensorReport> tensors = source->Report();
  for (const TensorReport& tensor : tensors) {
    const size_t dot = tensor.name.rfind('.');
    plan.push_back({absl::StrCat(*HfModuleOf(tensor.name.substr(0, dot)), tensor.name.substr(dot)),
                    SafetensorsType::kF32, tensor.shape});
  }
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsFileWriter writer,
                          SafetensorsFileWriter::Create(file, {{"format", "pt"}}, plan));
  for (size_t i = 0; i < tensors.size(); ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, ValuesOf(*source, tensors[i]));
    NIBBLE_RETURN_IF_ERROR(
        writer.Write(i, 0,
                     absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()),
                                         values.size() * sizeof(float))));
  }
  return writer.Finish();
}

absl::Status Run(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "write" && argc == 3) return Write(argv[2]);
  if (command == "seeds" && argc == 3) return Seeds(argv[2]);
  if (command == "values" && argc == 4) return Values(argv[2], argv[3]);
  return absl::InvalidArgumentError("written_folders write DIR | seeds DIR | values FOLDER FILE");
}

}  // namespace
}  // namespace nibble::quantize

int main(int argc, char** argv) {
  const absl::Status status = nibble::quantize::Run(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
