// The matrices of a model, from its file to the device: read, converted and packed by all of the
// backend's host threads, or taken from a file that an earlier start packed.
//
// Memory. Nothing but packed weights stays. While packing, each thread holds one piece of a matrix:
// its bytes from the file, its canonical form and its packed form, of about kPieceElements elements
// (128 rows where those are more), which is 12 MiB at most for F16, 2 to 5 MiB for the types below
// 8 bits. From the cache, each thread has one matrix
// in it and in its copy, of which the page cache's half is given back at once; shared weights are
// pages of the file and nothing else.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "engine/weights/weight_source.h"
#include "kernels/backend.h"

namespace nibble {

// Elements of a piece: enough that a thread claims it (a microsecond) for a millisecond's work, and
// the read of it (0.6 MB of Q4_1) is one the disk likes.
inline constexpr int64_t kPieceElements = 1 << 20;

struct MatrixRequest {
  std::string name;
  int32_t rows = 0;
  int32_t cols = 0;
  std::unique_ptr<PackedMatrix>* out = nullptr;
};

// File bytes done, told on the thread that made this object only.
class LoadProgress {
 public:
  LoadProgress(const WeightSource& weights, std::function<void(int64_t done, int64_t total)> hear);

  int64_t FileBytes(const std::string& name) const;  // 0: not in the file
  void Advance(int64_t bytes);                       // any thread
  void Tell() const;                                 // the one thread; others: nothing

 private:
  std::function<void(int64_t, int64_t)> hear_;
  std::map<std::string, int64_t> file_bytes_;
  std::atomic<int64_t> done_{0};
  int64_t total_ = 0;
  std::thread::id listener_;
};

// How the matrices came to be here.
struct MatrixReport {
  bool from_cache = false;  // otherwise converted and packed
  int32_t threads = 0;
  int64_t bytes = 0;  // packed
  Duration took{};    // until they were packed, or copied and verified

  std::string cache;         // the file; empty: none was asked for
  std::string cache_unused;  // why it was not taken, when there was one
  absl::Status written;      // of a new one, when it was not taken
  Duration write_took{};
};

// A file of packed weights, to use if it fits and to write otherwise.
struct PackedCache {
  std::string path;  // empty: none
  bool share =
      false;  // weights stay pages of the file, shared with other processes (packed_cache.h);
              // those that had to be packed become pages of what was written
};

// Fills every request, from the cache if there is one that fits; otherwise the matrices are packed,
// and it is written. A cache that cannot be used or written is
// no error; the report says why. Results are the same bits either way, for any number of threads.
// Errors: what the source or the backend says, the first in the order of requests.
absl::StatusOr<MatrixReport> LoadMatrices(Backend& backend, const WeightSource& weights,
                                          absl::Span<const MatrixRequest> requests,
                                          const PackedCache& cache, const Clock& clock,
                                          LoadProgress& progress);

}  // namespace nibble
