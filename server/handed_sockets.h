// How many of the sockets that were handed to somebody else are still open. gRPC takes a
// connection's descriptor and does not say when it closes it; but a socket has an inode of its own,
// so a descriptor that no longer names the same inode was closed, whatever has its number now.
//
// Not locked: one thread's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <utility>

namespace nibble {

class HandedSockets {
 public:
  // REQUIRES an open descriptor, not yet handed over.
  void Add(int fd);

  // Whether at least `count` are open. Costs nothing below that; else one fstat a socket, for at
  // most kMostLooks of them, where the last call stopped.
  bool AtLeast(int32_t count);

 private:
  using Identity = std::pair<dev_t, ino_t>;
  // 0.2 ms: what one refused connection may cost.
  static constexpr int kMostLooks = 1024;

  static Identity IdentityOf(int fd);

  std::map<int, Identity> sockets_;  // by descriptor; some were closed since
  int next_ = 0;                     // where to look on
};

}  // namespace nibble
