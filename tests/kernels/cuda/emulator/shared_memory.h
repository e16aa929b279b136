// The shared memory of the running block, with a shadow that knows who wrote and read each two
// bytes last, and when.
//
// Time is two counters: barriers that the block has passed, and __syncwarp calls that each warp has
// passed. One access is ordered after another when the same thread made both, or a barrier lies
// between them, or both threads are of one warp and a __syncwarp lies between; nothing else orders
// (shuffles, votes and mma do not, as in CUDA's memory model); atomics need no order among
// themselves. Faults: out of bounds, never written
// in this block, two threads' accesses without order of which one is a write, bytes of an
// asynchronous copy that its thread has not waited for.
//
// Barriers in shared memory order, too, as far as bulk copies need it: what a warp did before its
// last __syncwarp, and one of its threads then arrived, is before what happens after a wait for
// that phase; a copy's bytes are there for those who waited for its phase, or for whom a barrier or
// __syncwarp passes that on.
//
// What products of warp groups read is besides ordered by its writer, after the write and before a
// barrier.
//
// Memory that a block never wrote reads as 0xFF, NaN in every float type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::emulator {

// What lies before a thread's next access by way of barriers in shared memory (bulk_copies.h).
struct Seen {
  static constexpr int kMostBarriers = 32;
  uint32_t warps[32] = {};              // each one's accesses before that time
  uint32_t phases[kMostBarriers] = {};  // of each barrier, that have ended
  void Join(const Seen& other);
};

class SharedMemory {
 public:
  static constexpr size_t kMaxBytes =
      227 << 10;  // of one block on sm_90; sm_80 has 163 KB, sm_89 99 KB
  static constexpr uint32_t kBase =
      1 << 10;  // where the window of shared addresses begins: 0 is never valid

  SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  ~SharedMemory();

  void StartBlock(size_t bytes);
  void PassBarrier();
  void PassWarpSync(int warp);
  uint32_t barriers() const { return barrier_; }

  uint8_t* data() const { return begin_; }  // its end lies at a page without access
  bool Owns(const void* pointer) const;
  uint32_t AddressOf(const void* pointer) const {
    return kBase + static_cast<uint32_t>(At(pointer) - begin_);
  }
  uint8_t* FromAddress(uint32_t address) const {
    return begin_ + (static_cast<int64_t>(address) - kBase);
  }

  // Empty, or what is wrong with `thread`'s access.
  std::string Access(const void* pointer, size_t bytes, bool write, int thread);
  std::string AccessAtomically(const void* pointer, size_t bytes, int thread);
  // The read of a product of warp groups, of which `thread` stands for its warp.
  std::string AccessForProduct(const void* pointer, size_t bytes, int thread);
  void OrderForProducts(int thread) { ++orders_[thread]; }
  void StartCopy(const void* pointer, size_t bytes);               // after Access(.., write)
  void FinishCopy(const void* pointer, size_t bytes, int thread);  // a write of now

  // A bulk copy of `thread` that ends with that phase of a barrier: empty, or what is wrong.
  std::string StartBulkCopy(const void* pointer, size_t bytes, int thread, int barrier,
                            uint32_t phase);
  void FinishBulkCopy(const void* pointer, size_t bytes);
  Seen SeenWhenArriving(int thread) const;
  void Join(int thread, const Seen& seen) { seen_[thread].Join(seen); }

 private:
  enum class Readers : uint8_t { kOne, kWarp, kMany };
  struct Shadow {
    uint32_t write_barrier = 0, write_sync = 0;  // barrier 0: never
    uint32_t read_barrier = 0, read_sync = 0;
    uint32_t write_order = 0;  // how often the writer had ordered its writes for products
    uint16_t writer = 0, reader = 0;
    Readers readers = Readers::kOne;
    bool in_flight = false;
    bool atomic = false;  // the write
    bool bulk = false;    // the write was a bulk copy:
    uint8_t bulk_barrier = 0;
    uint32_t bulk_phase = 0;
  };
  static constexpr size_t kGranule = 2;
  static constexpr int kMaxWarps = 32;
  static const uint8_t* At(const void* pointer) { return static_cast<const uint8_t*>(pointer); }
  enum class Fault : uint8_t {
    kNone,
    kInFlight,
    kPhaseNotSeen,
    kRaceWithWrite,
    kRaceWithRead,
    kNeverWritten
  };
  enum class Kind : uint8_t { kRead, kWrite, kAtomic };
  std::string Access(const void* pointer, size_t bytes, Kind kind, int thread);
  Fault Check(const Shadow& shadow, Kind kind, int thread) const;
  bool WriteIsOrdered(const Shadow& shadow, Kind kind, int thread) const;
  bool ReadsAreOrdered(const Shadow& shadow, int thread) const;
  uint32_t& ReadTime(const Shadow& shadow, int warp) const {
    const size_t granule = static_cast<size_t>(&shadow - shadow_.data());
    return read_times_[static_cast<size_t>(warp) * shadow_.size() + granule];
  }
  void RecordRead(Shadow& shadow, int thread);
  void RecordWrite(Shadow& shadow, bool atomic, int thread);

  uint8_t* map_ = nullptr;
  uint8_t* begin_ = nullptr;
  size_t bytes_ = 0;
  uint32_t barrier_ = 1;
  uint32_t first_barrier_ = 1;  // of this block: what is older is another block's
  uint32_t time_ = 1;           // how many barriers and __syncwarp there were
  uint32_t barrier_time_ = 1;
  uint32_t warp_syncs_[kMaxWarps] = {};                        // each one's last, as a time
  uint32_t orders_[1024] = {}, orders_at_barrier_[1024] = {};  // of each thread
  std::vector<Seen> seen_;                                     // of each thread
  std::vector<Shadow> shadow_;
  mutable std::vector<uint32_t> read_times_;  // of each warp and granule, its last read
};

}  // namespace nibble::emulator
