// Time by argument: everything that waits or measures takes a Clock, so tests own time.
#pragma once

#include <chrono>

namespace nibble {

using Instant = std::chrono::steady_clock::time_point;  // monotonic; no calendar meaning
using Duration = std::chrono::nanoseconds;

inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() const = 0;  // never goes back; any thread
};

// The machine's monotonic clock.
class SteadyClock final : public Clock {
 public:
  Instant Now() const override { return std::chrono::steady_clock::now(); }
};

// Moves only when told to. Not thread-safe: advance it between steps.
class FakeClock final : public Clock {
 public:
  Instant Now() const override { return now_; }
  void Advance(Duration d) { now_ += d; }

 private:
  Instant now_{std::chrono::hours(1)};
};

}  // namespace nibble
