// Where a quantized model goes: one interface for every layout on a disk (a GGUF file in
// gguf_sink.h; a folder of safetensors is another implementation), fed by QuantizeModel
// (quantize_model.h), tensor by tensor, so that no more than one of them is in memory.
//
// Tensors have the names that GGUF gives them ("blk.3.attn_q.weight", "blk.3.attn_q.bias",
// "token_embd.weight"; NeededTensors in engine/gguf_model.h lists them), and rows of q and k, their
// biases too, come in the order that ModelConfig.rope_layout says: a layout that wants Hugging
// Face's order turns them back (HalfRowOf in engine/weights/hf/hf_source.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/method.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/quantize/provenance.h"
#include "engine/weights/gguf_file.h"

namespace nibble::quantize {

struct ModelTensor {
  std::string name;
  std::vector<int64_t> shape;  // [out, in], or [n]
  // F32, F16 or BF16 as the source has it; F32 where the source is quantized.
  GgmlType source = GgmlType::kF32;
  // Its codes are chosen by the method: it comes by Codes, all others by Rows or Raw.
  bool coded = false;
  // A linear without codes that the method may scale (AWQ, SmoothQuant).
  bool scaled = false;
};

// sqrt(sum (x - y)^2 / sum x^2), y what is stored now; 0 where that is x. x is the source's, but
// for the matrices whose columns a method scaled (AWQ, SmoothQuant): the scaled ones.
struct TensorError {
  std::string name;
  double relative_error = 0;
};

// All that will come, and by what.
struct ModelPlan {
  ModelConfig config;
  Method method;
  double damping = 0;     // GPTQ's
  Provenance provenance;  // for the artefact to tell
  std::vector<ModelTensor> tensors;
};

class ModelSink {
 public:
  virtual ~ModelSink() = default;

  // Whether this layout can keep what the method makes, asked before any work.
  // INVALID_ARGUMENT names the method, the layout, and what would work.
  virtual absl::Status Accepts(const Method& method) const = 0;
  // Whether the tensor is one whose codes the layout takes from the method; the other linears come
  // by Rows and are stored as the layout likes. Asked before Begin, of the linears of the layers,
  // and of embedding and head where the method does them.
  virtual bool WantsCodes(const std::string& name) const = 0;

  // Once, after Accepts and before the first tensor. `plan` outlives the sink's last call.
  virtual absl::Status Begin(const ModelPlan& plan) = 0;
  // A whole matrix, once.
  virtual absl::Status Codes(const std::string& name, const QuantizedWeight& weight) = 0;
  // Rows first_row .. of a matrix, or a whole vector as one row; every row once, in order. Returns
  // the sum of squares of what storing them changed, 0 where it is exact.
  virtual absl::StatusOr<double> Rows(const std::string& name, int64_t first_row,
                                      const MatrixF& values) = 0;
  // Whether the tensor is stored as the bytes that SourceTensors has of it. Then those come by Raw,
  // in pieces of whole rows, in order, unless the method has changed its values: they come by Rows.
  virtual bool Keeps(const std::string& name) const = 0;
  // REQUIRES Keeps(name).
  virtual absl::Status Raw(const std::string& name, int64_t offset,
                           absl::Span<const uint8_t> bytes) = 0;
  // After the last tensor, with one error for each. Until then there is nothing at the output's
  // name; if it is never called, nothing stays.
  virtual absl::Status Finish(const std::vector<TensorError>& errors) = 0;
};

}  // namespace nibble::quantize
