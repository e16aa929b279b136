#include "engine/weights/hf/partial_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/partial_file.h"

namespace nibble {
namespace {

std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

bool IsEmptyFolder(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  if (folder == nullptr) return false;
  int entries = 0;
  while (readdir(folder.get()) != nullptr) ++entries;
  return entries == 2;  // itself and its parent
}

}  // namespace

PartialFolder::PartialFolder(const std::string& path)
    : path_(WithoutSlash(path)), partial_(path_ + ".partial") {}

PartialFolder::~PartialFolder() {
  if (locked_ && Empty().ok()) rmdir(partial_.c_str());
  if (fd_ >= 0) close(fd_);
}

absl::Status PartialFolder::Create() {
  struct stat found;
  if (lstat(path_.c_str(), &found) == 0 && !IsEmptyFolder(path_)) {
    return absl::AlreadyExistsError(absl::StrCat(
        path_,
        ": is there already, needed a new or an empty folder; remove it or take another "
        "name"));
  }
  if (mkdir(partial_.c_str(), 0755) != 0 && errno != EEXIST) {
    return FileError(partial_, "creating it", errno);
  }
  fd_ = open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (fd_ < 0) return FileError(partial_, "opening it", errno);
  NIBBLE_RETURN_IF_ERROR(LockAlone(fd_, partial_, "writing it"));
  if (!IsStillThere()) {
    return absl::UnavailableError(absl::StrCat(partial_, ": another process is writing it"));
  }
  NIBBLE_RETURN_IF_ERROR(Empty());
  locked_ = true;
  return absl::OkStatus();
}

absl::Status PartialFolder::WriteText(absl::string_view file, absl::string_view text) {
  PartialFile out(absl::StrCat(partial_, "/", file));
  NIBBLE_RETURN_IF_ERROR(out.Create());
  NIBBLE_RETURN_IF_ERROR(out.Write({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return out.Publish();
}

absl::Status PartialFolder::Publish() {
  if (fsync(fd_) != 0) return FileError(partial_, "syncing it", errno);
  // Fails where the path became something else meanwhile: only an empty folder is replaced.
  if (rename(partial_.c_str(), path_.c_str()) != 0) {
    return FileError(path_, "renaming to it", errno);
  }
  locked_ = false;
  const size_t slash = path_.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int fd = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    fsync(fd);
    close(fd);
  }
  return absl::OkStatus();
}

// Removes the files in it.
absl::Status PartialFolder::Empty() const {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(partial_.c_str()), closedir);
  if (folder == nullptr) return FileError(partial_, "listing it", errno);
  while (const dirent* entry = readdir(folder.get())) {
    if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
    if (unlinkat(fd_, entry->d_name, 0) != 0) {
      const std::string file = absl::StrCat(partial_, "/", entry->d_name);
      if (errno == EISDIR) {
        return absl::UnavailableError(
            absl::StrCat(file, ": is a folder, which no writer of models leaves there"));
      }
      return FileError(file, "removing it", errno);
    }
  }
  return absl::OkStatus();
}

// Not renamed or removed by who held the lock before.
bool PartialFolder::IsStillThere() const {
  struct stat held, found;
  return fstat(fd_, &held) == 0 && lstat(partial_.c_str(), &found) == 0 &&
         held.st_ino == found.st_ino && held.st_dev == found.st_dev;
}

}  // namespace nibble
