// The tensors of a model folder, by name: those of model.safetensors, or of the shards that
// model.safetensors.index.json names. Immutable after Open and safe to share.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/weights/hf/model_folder.h"
#include "engine/weights/safetensors_file.h"

namespace nibble {

inline constexpr size_t kMaxShards = 1024;  // the largest models have about 200

// The largest value that a scale may have, stored or computed: times the largest code, an fp8's
// 57344, it is finite.
inline constexpr float kLargestStored = 0x1p110f;

// A tensor and the file it is in.
class StoredTensor {
 public:
  StoredTensor(const SafetensorsFile& file, const SafetensorsTensor& tensor)
      : file_(&file), tensor_(&tensor) {}

  const SafetensorsTensor& info() const { return *tensor_; }
  SafetensorsType type() const { return tensor_->type; }
  absl::Span<const int64_t> shape() const { return tensor_->shape; }
  int64_t num_elements() const { return tensor_->num_elements; }
  std::string Describe() const;  // "I32 [128, 64]"

  // `size` bytes from `offset` on. DATA_LOSS where the file became shorter. REQUIRES: within it.
  absl::StatusOr<std::vector<uint8_t>> Bytes(int64_t offset, int64_t size) const;
  // Of a matrix [.., cols] of elements of whole bytes: columns first_col .. + num_cols - 1 of rows
  // first_row .. + num_rows - 1, one row after another. REQUIRES: 2 dimensions, a window within.
  absl::StatusOr<std::vector<uint8_t>> Window(int64_t first_row, int64_t num_rows,
                                              int64_t first_col, int64_t num_cols) const;
  // Elements first .. first + count - 1 of F32, F16, BF16, F8_E4M3 or F8_E8M0, exactly, in f32.
  // UNIMPLEMENTED names another type; DATA_LOSS a NaN, or a value beyond kLargestStored.
  absl::StatusOr<std::vector<float>> Floats(int64_t first, int64_t count) const;
  absl::StatusOr<std::vector<float>> FloatWindow(int64_t first_row, int64_t num_rows,
                                                 int64_t first_col, int64_t num_cols) const;

  // "<file>: tensor '<name>' <message>"
  absl::Status Problem(absl::StatusCode code, absl::string_view message) const;

 private:
  absl::StatusOr<std::vector<float>> Widen(absl::Span<const uint8_t> bytes) const;
  const SafetensorsFile* file_;
  const SafetensorsTensor* tensor_;
};

class TensorSet {
 public:
  // NOT_FOUND where the folder has no weights, UNIMPLEMENTED for weights of another kind
  // (pytorch_model.bin is a pickle: reading it runs code). DATA_LOSS for an index that names a
  // tensor its shard lacks, or a tensor that two shards have. Otherwise as ModelFolder and
  // SafetensorsFile.
  static absl::StatusOr<TensorSet> Open(const ModelFolder& folder);
  // Over files in memory (tests, fuzzing).
  static absl::StatusOr<TensorSet> Make(std::vector<SafetensorsFile> files);

  const StoredTensor* Find(absl::string_view name) const;  // null: absent
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const std::deque<SafetensorsFile>& files() const { return files_; }

 private:
  TensorSet() = default;
  absl::Status Add(SafetensorsFile file);

  std::deque<SafetensorsFile> files_;  // a deque: StoredTensors point into them
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace nibble
