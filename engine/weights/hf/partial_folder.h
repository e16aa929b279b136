// A folder that is complete or not there: filled as PATH.partial beside its place, then synced and
// renamed. Destroyed before Publish, nothing of it remains; killed, PATH.partial does, which the
// next writer of PATH takes over. While it is filled it is locked: one process writes a path.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nibble {

class PartialFolder {
 public:
  explicit PartialFolder(const std::string& path);
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;
  ~PartialFolder();

  // ALREADY_EXISTS where the path is anything but an empty folder: nothing of anyone's is ever
  // removed. UNAVAILABLE where another process is writing the path, or PATH.partial holds folders,
  // which no such writer leaves behind. Otherwise FileError's.
  absl::Status Create();
  // Where to write files until Publish.
  const std::string& path() const { return partial_; }
  // A whole file, synced.
  absl::Status WriteText(absl::string_view file, absl::string_view text);
  // Gives the folder its name and syncs that. REQUIRES the files synced.
  absl::Status Publish();

 private:
  absl::Status Empty() const;
  bool IsStillThere() const;

  const std::string path_;  // without a slash at the end
  const std::string partial_;
  int fd_ = -1;
  bool locked_ = false;
};

}  // namespace nibble
