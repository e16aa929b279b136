// A quantized model as a GGUF file that llama.cpp opens too: codes as blocks of the type that holds
// them (methods/ggml_blocks.h), the rest as a recipe says (recipe.h), complete or absent
// (engine/weights/partial_file.h).
//
// Keys: those that are given, and those of engine/quantize/provenance.h, `type` being the mix whose
// blocks the codes are in.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/model/model_sink.h"
#include "engine/quantize/recipe.h"
#include "engine/weights/gguf_writer.h"

namespace nibble::quantize {

// The method with scales as the blocks have them, or INVALID_ARGUMENT: no ggml type holds what it
// makes, said with the methods and schemes that a GGUF file can keep.
absl::StatusOr<Method> ForGguf(Method method);

// The mix of types for the tensors that the method leaves: the one named after the blocks that its
// codes fill ("q4_0" for int4-full-g32). REQUIRES a method that ForGguf took.
MixInfo MixFor(const Method& method);

struct GgufSinkOptions {
  std::string output;
  GgufKeys keys;  // the model's own
  MixInfo mix;
  Method method;                      // as ForGguf gives it
  std::vector<TensorRecipe> recipes;  // PlanTypes of the source with `mix`
  int threads = 1;
};

class GgufSink : public ModelSink {
 public:
  explicit GgufSink(GgufSinkOptions options);

  absl::Status Accepts(const Method& method) const override { return ForGguf(method).status(); }
  bool WantsCodes(const std::string& name) const override;
  absl::Status Begin(const ModelPlan& plan) override;
  absl::Status Codes(const std::string& name, const QuantizedWeight& weight) override;
  absl::StatusOr<double> Rows(const std::string& name, int64_t first_row,
                              const MatrixF& values) override;
  bool Keeps(const std::string& name) const override;
  absl::Status Raw(const std::string& name, int64_t offset,
                   absl::Span<const uint8_t> bytes) override;
  absl::Status Finish(const std::vector<TensorError>& errors) override;

  int64_t size_bytes() const { return size_bytes_; }  // of the file, after Begin

 private:
  size_t IndexOf(const std::string& name) const;
  // The file's keys, with the errors of the tensors that change.
  GgufKeys Keys(const std::vector<TensorError>& errors) const;

  const GgufSinkOptions options_;
  Provenance provenance_;
  std::vector<std::string> changed_;  // names
  std::unique_ptr<GgufFileWriter> writer_;
  int64_t size_bytes_ = 0;
};

}  // namespace nibble::quantize
