// A file that is complete or not there: written as PATH.partial beside its place, then synced and
// renamed. One that replaces a file has the permissions of that one, and grants no more while it is
// being written. Destroyed before Publish, nothing of it remains; killed, PATH.partial does, which
// the next writer of PATH takes over. While it exists it is locked: one process writes a path.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nibble {

class PartialFile {
 public:
  explicit PartialFile(const std::string& path) : path_(path), partial_(path + ".partial") {}
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile();

  // Errors of all calls: FileError's, and UNAVAILABLE where another process is writing the path.
  absl::Status Create();
  // Fails before the work is done where the disk is too full for it.
  absl::Status Reserve(uint64_t size);
  // After what was written by this one so far.
  absl::Status Write(absl::Span<const uint8_t> bytes);
  // At an offset; any thread.
  absl::Status WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes);
  // Syncs, gives the file its name (replacing what has it) and syncs the folder.
  absl::Status Publish();

 private:
  bool IsStillThere() const;

  const std::string path_;
  const std::string partial_;
  std::optional<mode_t> mode_;  // of the file that is replaced
  int fd_ = -1;
  bool locked_ = false;
};

// Locks what is open as `fd` for as long as it is. UNAVAILABLE "PATH: another process is BUSY"
// where another has the lock; FileError's where there is none to be had, as on some file systems.
absl::Status LockAlone(int fd, const std::string& path, absl::string_view busy);

// "PATH: WHAT: strerror": PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk, quota or file size),
// NOT_FOUND (no such folder), UNAVAILABLE otherwise.
absl::Status FileError(const std::string& path, absl::string_view what, int error);

}  // namespace nibble
