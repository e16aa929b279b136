// A checkpoint as the model wants it: named matrices in canonical formats, named vectors in f32.
// One implementation a file format (GGUF now), so that the model and the quantizer never learn
// about files.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/canonical.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/source_identity.h"
#include "kernels/quant/matrix.h"

namespace nibble {

struct TensorReport {
  std::string name;
  std::string file_type;       // "Q6_K"
  std::vector<int64_t> shape;  // [out, in]
  int64_t file_bytes = 0;
  std::string canonical;              // "int8 g16", "" when unreadable
  int64_t canonical_bytes = 0;        // as a backend will hold it, scales as f16 where exact
  bool converted = false;             // wider than in the file: no kernel of its own
  std::optional<CanonicalForm> form;  // of a matrix
};

struct RowRange {
  int32_t first = 0;
  int32_t count = 0;
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool Has(absl::string_view name) const = 0;
  // Rows of matrix `name`, which must be [rows, cols], as a matrix of their own. NOT_FOUND, or
  // INVALID_ARGUMENT "found [..], needed [..]"; DATA_LOSS for a NaN or infinite scale, or a file
  // that became shorter. Reads each byte once. Any thread. REQUIRES: a range within `rows`.
  virtual absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                                 RowRange range) const = 0;
  // All of it.
  absl::StatusOr<quant::Matrix> LoadMatrix(absl::string_view name, int32_t rows,
                                           int32_t cols) const {
    return LoadRows(name, rows, cols, {0, rows});
  }
  // Vector `name` of n elements, dequantized to f32.
  virtual absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name,
                                                        int32_t n) const = 0;
  virtual std::vector<TensorReport> Report() const = 0;
  // Tells this checkpoint from every other, and from itself once it is changed.
  virtual absl::StatusOr<SourceIdentity> Identity() const = 0;
};

// `file` must outlive the source.
std::unique_ptr<WeightSource> MakeGgufSource(const GgufFile& file);

}  // namespace nibble
