// How the folders of Hugging Face's ecosystem keep a quantized matrix: the way back of
// engine/weights/hf/linear_layout.h, one implementation a layout; formats are described in its
// files, and in those of the readers.
//
//   layout               holds                                                      scales
//   gptq                 int 2, 3, 4, 8 bits by group or row; g_idx; zeros of 1..   f16
//   gptq-v2              the same with any zero point                               f16
//   awq                  int 4 bits by group or row (AutoAWQ's gemm)                f16
//   compressed-tensors   pack-quantized: int 2, 4, 8 bits by group or row           f16
//                        int-quantized: int 8 bits by row or tensor                 f32
//                        float-quantized: e4m3 by row, tensor or block              f32
//   bitsandbytes         nf4, fp4 in blocks of 32 .. 4096, double quantized or not  f32
//                        LLM.int8(): symmetric int 8 bits by row                    f32
//   fp8                  e4m3, e5m2 by tensor (AutoFP8) or block (DeepSeek)         f32
//   plain                no codes at all
//
// GPTQ v1 stores zero points less one. A zero point of 0 then wraps around, and readers disagree on
// what it means, so it is not written: gptq-v2 is for asymmetric schemes.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/weights/safetensors_header.h"

namespace nibble::quantize {

enum class HfLayout : uint8_t {
  kPlain,
  kGptq,
  kGptqV2,
  kAwq,
  kCompressedTensors,
  kBitsAndBytes,
  kFp8
};
// INVALID_ARGUMENT quotes the name and says what there is.
absl::StatusOr<HfLayout> ParseHfLayout(absl::string_view name);
absl::string_view LayoutName(HfLayout layout);
// The one that others most likely serve the method's result from: GPTQ's and AWQ's own for theirs,
// bitsandbytes for nf4, fp4 and llm-int8, fp8 for e4m3-block, compressed-tensors for the rest.
HfLayout UsualLayout(const Method& method);

// A tensor of a module: "<module>.<suffix>".
struct PackedTensor {
  std::string suffix;  // "qweight"
  SafetensorsType type = SafetensorsType::kI32;
  std::vector<int64_t> shape;
};

class MatrixPacking {
 public:
  virtual ~MatrixPacking() = default;

  // INVALID_ARGUMENT for a matrix whose rows or columns do not fill the layout's words.
  virtual absl::Status CheckShape(int32_t rows, int32_t cols) const = 0;
  // What a matrix of that shape is made of. REQUIRES CheckShape.
  virtual std::vector<PackedTensor> Plan(int32_t rows, int32_t cols) const = 0;
  // The bytes of each of Plan's tensors. INVALID_ARGUMENT names a scale or zero point that the
  // layout does not hold. REQUIRES a weight of the method's scheme, and CheckShape.
  virtual absl::StatusOr<std::vector<std::vector<uint8_t>>> Pack(
      const QuantizedWeight& weight) const = 0;
  // config.json's "quantization_config". `plain`: linear modules that are not quantized.
  virtual nlohmann::ordered_json Config(const std::vector<std::string>& plain) const = 0;
};

// Null for kPlain. INVALID_ARGUMENT names the method, the layout, and one that would do.
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakePacking(HfLayout layout, const Method& method);
// Whether MakePacking would; and the method as the layout needs it: with f16 scales for int8
// schemes where the layout keeps those.
absl::StatusOr<Method> InLayout(HfLayout layout, const Method& method);

// Each layout's own, called by MakePacking.
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeGptqPacking(const Method& method, bool v2);
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeAwqPacking(const Method& method);
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeCompressedPacking(const Method& method);
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeBnbPacking(const Method& method);
absl::StatusOr<std::unique_ptr<MatrixPacking>> MakeFp8Packing(const Method& method);

}  // namespace nibble::quantize
