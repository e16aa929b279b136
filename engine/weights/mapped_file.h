// A whole file mapped read-only; processes that map the same file share its pages. Touching a page
// of the mapping that the file no longer reaches is SIGBUS; ReadAt is an error instead.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace nibble {

class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (a directory, a pipe, a device), DATA_LOSS
  // (empty).
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), fd_(std::exchange(other.fd_, -1)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~MappedFile();

  absl::Span<const uint8_t> bytes() const { return bytes_; }

  // Fills `out` from `offset` on, past the mapping. DATA_LOSS when the file ends before, as one
  // that was truncated since does; UNAVAILABLE for an I/O error. Any thread.
  absl::Status ReadAt(int64_t offset, absl::Span<uint8_t> out) const;
  // When the file was last written, in ns since 1970.
  absl::StatusOr<int64_t> ModifiedNs() const;
  // Asks the system to begin reading the file.
  void WillNeed() const;
  // Gives the pages that hold `bytes` back: they stay in the page cache, and count as this
  // process's memory only once they are touched again.
  void Drop(absl::Span<const uint8_t> bytes) const;

 private:
  MappedFile(absl::Span<const uint8_t> bytes, int fd) : bytes_(bytes), fd_(fd) {}
  absl::Span<const uint8_t> bytes_;
  int fd_ = -1;
};

}  // namespace nibble
