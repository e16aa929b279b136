// Writing a safetensors file, atomically (partial_file.h).
//
// The names, types and shapes of all tensors are known first, so the header is written at once and
// the bytes may then come in any order, in pieces, and from any thread: memory is the header's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/weights/partial_file.h"
#include "engine/weights/safetensors_header.h"

namespace nibble {

struct SafetensorsTensorPlan {
  std::string name;
  SafetensorsType type = SafetensorsType::kF32;
  std::vector<int64_t> shape;  // empty: one element
};
int64_t BytesOf(const SafetensorsTensorPlan& tensor);

// "__metadata__": transformers reads no file whose "format" is not "pt".
using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

class SafetensorsFileWriter {
 public:
  // Reserves the whole file. Tensors lie in it widest elements first, as the format's own library
  // orders them, so that each is aligned. RESOURCE_EXHAUSTED when the disk has no room, and the
  // errors of PartialFile. REQUIRES names that IsPrintableName, unique and not "__metadata__",
  // dimensions of 0 and more, tensors of whole bytes, keys of the metadata that are unique.
  static absl::StatusOr<SafetensorsFileWriter> Create(
      const std::string& path, const SafetensorsMetadata& metadata,
      absl::Span<const SafetensorsTensorPlan> tensors);

  // Bytes `offset`.. of tensor number `index`. Any thread. REQUIRES: within the tensor.
  absl::Status Write(size_t index, int64_t offset, absl::Span<const uint8_t> bytes);
  // Publishes the file. REQUIRES every byte of every tensor written.
  absl::Status Finish();

  int64_t size_bytes() const { return size_bytes_; }

 private:
  explicit SafetensorsFileWriter(const std::string& path);

  std::unique_ptr<PartialFile> file_;
  std::vector<int64_t> starts_, sizes_;  // in the file, by the caller's numbers
  int64_t size_bytes_ = 0;
};

}  // namespace nibble
