// A safetensors file, mapped read-only and checked completely before anything is believed
// (safetensors_header.h). Nothing here asserts on file content; errors are DATA_LOSS (corrupt),
// UNIMPLEMENTED (a dtype we do not know), INVALID_ARGUMENT, NOT_FOUND or PERMISSION_DENIED (as
// MappedFile), and say subject, found and needed. Immutable after Open and safe to share.
//
// Tensors are read, not mapped: a file that is truncated while it loads is DATA_LOSS, and nothing
// of it is needed afterwards.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/weights/safetensors_header.h"

namespace nibble {

class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the object (tests, fuzzing).
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const uint8_t> bytes,
                                               absl::string_view name);

  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  // Whether `head`, the first bytes of a file, can begin one: a length in range, then '{'.
  static bool Begins(absl::Span<const uint8_t> head);

  const std::string& name() const;  // the path, for messages
  int64_t size_bytes() const;
  absl::Span<const SafetensorsTensor> tensors() const;                 // by offset
  const SafetensorsTensor* Find(absl::string_view tensor_name) const;  // null: absent
  absl::Span<const std::pair<std::string, std::string>> metadata() const;

  // Fills `out` with the tensor's bytes from `offset` on, read from the file. DATA_LOSS where the
  // file became shorter. Any thread. REQUIRES: a range within the tensor.
  absl::Status Read(const SafetensorsTensor& tensor, int64_t offset, absl::Span<uint8_t> out) const;
  // All before the tensors' data.
  absl::Span<const uint8_t> Preamble() const;
  // When the file was last written, in ns since 1970; 0 for one parsed from memory.
  absl::StatusOr<int64_t> ModifiedNs() const;

 private:
  struct Rep;
  explicit SafetensorsFile(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace nibble
