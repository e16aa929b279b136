// Writing what TensorSet reads: model.safetensors, or shards and the index that names them, into a
// folder that is there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/weights/safetensors_writer.h"

namespace nibble {

inline constexpr int64_t kDefaultShardBytes = int64_t{5} << 30;  // as the hub's files have been

class TensorSetWriter {
 public:
  // Shards are filled in the tensors' order; a shard has more than `max_shard_bytes` of tensors
  // only where one tensor has. RESOURCE_EXHAUSTED for more than kMaxShards, otherwise as
  // SafetensorsFileWriter::Create, which see for what is required of the tensors.
  static absl::StatusOr<TensorSetWriter> Create(const std::string& folder,
                                                absl::Span<const SafetensorsTensorPlan> tensors,
                                                int64_t max_shard_bytes = kDefaultShardBytes);

  // As SafetensorsFileWriter::Write; `index` counts all tensors.
  absl::Status Write(size_t index, int64_t offset, absl::Span<const uint8_t> bytes);
  // Publishes every file, the index last. REQUIRES every byte of every tensor written.
  absl::Status Finish();

  int64_t size_bytes() const;  // of all files but the index
  size_t num_shards() const { return files_.size(); }

 private:
  TensorSetWriter() = default;
  struct Place {
    size_t file = 0, index = 0;
  };

  std::string folder_;
  std::vector<SafetensorsFileWriter> files_;
  std::vector<Place> places_;
  std::string index_json_;  // empty: one file
};

}  // namespace nibble
