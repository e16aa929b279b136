#include "engine/weights/partial_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {

absl::Status FileError(const std::string& path, absl::string_view what, int error) {
  const std::string message = absl::StrCat(path, ": ", what, ": ", std::strerror(error));
  if (error == EACCES || error == EPERM || error == EROFS || error == ELOOP) {
    return absl::PermissionDeniedError(message);
  }
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    return absl::ResourceExhaustedError(message);
  }
  if (error == ENOENT) return absl::NotFoundError(message);
  return absl::UnavailableError(message);
}

absl::Status LockAlone(int fd, const std::string& path, absl::string_view busy) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno != EWOULDBLOCK) return FileError(path, "locking it", errno);
  return absl::UnavailableError(absl::StrCat(path, ": another process is ", busy));
}

PartialFile::~PartialFile() {
  if (locked_) unlink(partial_.c_str());
  if (fd_ >= 0) close(fd_);
}

absl::Status PartialFile::Create() {
  struct stat replaced;
  if (lstat(path_.c_str(), &replaced) == 0 && S_ISREG(replaced.st_mode)) {
    mode_ = replaced.st_mode & 0777;
  }
  // Its own writer must be able to write it, and the next one where this is killed.
  const mode_t now = mode_.value_or(0644) | 0600;
  fd_ = open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, now);
  if (fd_ < 0) return FileError(partial_, "creating it", errno);
  NIBBLE_RETURN_IF_ERROR(LockAlone(fd_, partial_, "writing it"));
  if (!IsStillThere()) {
    return absl::UnavailableError(absl::StrCat(partial_, ": another process is writing it"));
  }
  locked_ = true;
  // One that is taken over may grant more; the umask, less.
  if (mode_.has_value() && fchmod(fd_, now) != 0) {
    return FileError(partial_, "setting its permissions", errno);
  }
  if (ftruncate(fd_, 0) != 0) return FileError(partial_, "emptying it", errno);
  return absl::OkStatus();
}

absl::Status PartialFile::Reserve(uint64_t size) {
  const int error = posix_fallocate(fd_, 0, static_cast<off_t>(size));
  return error == 0 ? absl::OkStatus() : FileError(partial_, "writing it", error);
}

absl::Status PartialFile::Write(absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(partial_, "writing it", errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status PartialFile::WriteAt(uint64_t offset, absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(partial_, "writing it", errno);
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status PartialFile::Publish() {
  if (mode_.has_value() && fchmod(fd_, *mode_) != 0) {
    return FileError(partial_, "setting its permissions", errno);
  }
  if (fsync(fd_) != 0) return FileError(partial_, "syncing it", errno);
  if (rename(partial_.c_str(), path_.c_str()) != 0) {
    return FileError(path_, "renaming to it", errno);
  }
  locked_ = false;
  // The new name itself must outlive a power cut, too. Some file systems cannot sync a folder.
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  return absl::OkStatus();
}

// Not renamed or removed by who held the lock before.
bool PartialFile::IsStillThere() const {
  struct stat held, found;
  return fstat(fd_, &held) == 0 && lstat(partial_.c_str(), &found) == 0 &&
         held.st_ino == found.st_ino && held.st_dev == found.st_dev;
}

}  // namespace nibble
