// Writing GGUF v3: keys, a tensor table and the tensors' bytes, atomically (partial_file.h).
//
// A writer needs the names, shapes and types of all tensors first; their bytes may then come in any
// order and from any thread. The keys come last, when what they tell of the tensors is known; room
// for them is kept at the front of the file, so their encoded size must not change in between.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/partial_file.h"

namespace nibble {

// Keys in the order they were first set.
class GgufKeys {
 public:
  GgufKeys() = default;
  // All keys of a file but general.alignment, which is the writer's to choose.
  static GgufKeys CopyOf(const GgufFile& file);

  void SetU32(absl::string_view key, uint32_t value);
  void SetU64(absl::string_view key, uint64_t value);
  void SetF64(absl::string_view key, double value);
  void SetF32(absl::string_view key, float value);
  void SetBool(absl::string_view key, bool value);
  void SetString(absl::string_view key, absl::string_view value);
  void SetStrings(absl::string_view key, absl::Span<const std::string> values);
  void SetFloats(absl::string_view key, absl::Span<const float> values);
  void SetInts(absl::string_view key, absl::Span<const int32_t> values);
  // Removes every key that begins with `prefix`.
  void RemoveAll(absl::string_view prefix);

  // As in a file: for each the key, the type and the value.
  std::vector<uint8_t> Encoded() const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string key;
    std::vector<uint8_t> value;  // with its type
  };
  void Set(absl::string_view key, std::vector<uint8_t> value);

  std::vector<Entry> entries_;
};

struct GgufTensorPlan {
  std::string name;
  std::vector<int64_t> dims;  // dims[0] is contiguous
  GgmlType type = GgmlType::kF32;
};

class GgufFileWriter {
 public:
  // Reserves the whole file. RESOURCE_EXHAUSTED when the disk has no room for it, and the errors of
  // PartialFile. REQUIRES valid, unique names, and rows of whole blocks.
  static absl::StatusOr<GgufFileWriter> Create(const std::string& path, const GgufKeys& keys,
                                               absl::Span<const GgufTensorPlan> tensors);

  // Bytes `offset`.. of tensor number `index`. Any thread.
  absl::Status Write(size_t index, int64_t offset, absl::Span<const uint8_t> bytes);
  // Writes the keys and the table, then publishes the file. REQUIRES `keys` of the encoded size
  // that Create was given, and every byte of every tensor written.
  absl::Status Finish(const GgufKeys& keys);

  int64_t size_bytes() const { return size_bytes_; }

 private:
  explicit GgufFileWriter(const std::string& path);

  std::unique_ptr<PartialFile> file_;
  std::vector<uint8_t> table_;  // the tensors' entries
  std::vector<int64_t> starts_, sizes_;
  size_t preamble_bytes_ = 0;
  int64_t size_bytes_ = 0;
};

}  // namespace nibble
