#include "server/handed_sockets.h"

#include <sys/stat.h>

namespace nibble {

HandedSockets::Identity HandedSockets::IdentityOf(int fd) {
  struct stat found{};
  if (fstat(fd, &found) != 0) return {};  // closed: no socket has inode 0
  return {found.st_dev, found.st_ino};
}

void HandedSockets::Add(int fd) { sockets_.insert_or_assign(fd, IdentityOf(fd)); }

bool HandedSockets::AtLeast(int32_t count) {
  const auto known = static_cast<int64_t>(sockets_.size());
  for (int64_t looks = 0; looks < known && looks < kMostLooks; ++looks) {
    if (static_cast<int64_t>(sockets_.size()) < count) return false;
    auto at = sockets_.lower_bound(next_);
    if (at == sockets_.end()) at = sockets_.begin();
    next_ = at->first + 1;
    if (IdentityOf(at->first) != at->second) sockets_.erase(at);
  }
  return static_cast<int64_t>(sockets_.size()) >= count;
}

}  // namespace nibble
