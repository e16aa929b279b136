// How loading goes, for whoever watches: a bar on a terminal, a line now and then in a log.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

#include "engine/base/clock.h"

namespace nibble {

class Progress {
 public:
  // `log` (may be empty) takes one line each time another quarter is done, when `terminal` is
  // false.
  Progress(std::ostream& err, bool terminal, std::string what,
           std::function<void(const std::string&)> log);
  ~Progress();  // clears the bar

  // From now on, says nothing until `delay` has passed on `clock`, which must outlive this: what is
  // done sooner needs no bar.
  void QuietFor(Duration delay, const Clock& clock);

  void Update(int64_t done, int64_t total);

 private:
  std::ostream& err_;
  bool terminal_;
  std::string what_;
  std::function<void(const std::string&)> log_;
  int last_percent_ = -1;
  const Clock* clock_ = nullptr;  // null: never quiet
  Instant quiet_until_;
};

}  // namespace nibble
