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
  // false. With a `clock` the bar also says how much time is left, at the pace so far.
  Progress(std::ostream& err, bool terminal, std::string what,
           std::function<void(const std::string&)> log, const Clock* clock = nullptr);
  ~Progress();  // clears the bar

  // From now on, says nothing until `delay` has passed on `clock`, which must outlive this: what is
  // done sooner needs no bar. The bar then says how much time is left, too.
  void QuietFor(Duration delay, const Clock& clock);

  void Update(int64_t done, int64_t total);

 private:
  std::string TimeLeft(int64_t done, int64_t total) const;

  std::ostream& err_;
  bool terminal_;
  std::string what_;
  std::function<void(const std::string&)> log_;
  const Clock* clock_;  // null: never quiet, and no time left is told
  Instant start_;
  int last_percent_ = -1;
  Instant quiet_until_;
};

}  // namespace nibble
