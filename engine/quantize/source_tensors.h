// The tensors of a model that is to be quantized, as blocks of ggml's types, whatever file they
// lie in: what PlanTypes (recipe.h) plans and QuantizeGguf (gguf_quantizer.h) reads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/weight_source.h"

namespace nibble {

struct SourceTensor {
  std::string name;           // GGUF's
  std::vector<int64_t> dims;  // dims[0] is a row's length
  int32_t ggml_type = 0;      // that ReadRows gives
  bool quantized = false;     // already, as it is stored
  int64_t num_elements = 0;
  int64_t size_bytes = 0;  // as stored
};

// What the mixes' rules look at (recipe.h); 0 where the file does not say.
struct HeadCounts {
  int64_t layers = 0, heads = 0, kv_heads = 0;
};

class SourceTensors {
 public:
  virtual ~SourceTensors() = default;
  virtual const std::string& name() const = 0;  // the path, for messages
  virtual absl::Span<const SourceTensor> tensors() const = 0;
  virtual HeadCounts counts() const = 0;
  // Blocks of rows first .. first + count - 1 of tensor number `index`; a vector is one row. A view
  // of `buffer`, or of the file. Errors of the file. Any thread. REQUIRES: rows within the tensor,
  // `first` a multiple of row_multiple().
  virtual absl::StatusOr<absl::Span<const uint8_t>> ReadRows(
      size_t index, int64_t first, int64_t count, std::vector<uint8_t>& buffer) const = 0;
  virtual int64_t row_multiple() const { return 1; }
};

// In the file's order and types. `file` must outlive the result.
std::unique_ptr<SourceTensors> MakeSourceTensors(const GgufFile& file);

// Any other source, `order` naming its tensors as they shall be written. Matrices are F32, F16 or
// BF16 where they are stored so, F32 with the values they stand for where they are quantized;
// vectors are F32. `rope_factors` (RopeFactors in engine/gguf_keys.h), where there are any, becomes
// rope_freqs.weight. `source` must outlive the result. REQUIRES: the source has what `order` names.
std::unique_ptr<SourceTensors> MakeSourceTensors(const WeightSource& source,
                                                 const ModelConfig& config, const std::string& name,
                                                 absl::Span<const std::string> order,
                                                 std::vector<float> rope_factors);

}  // namespace nibble
