// What kernels did, counted as the hardware would: by warp instruction. The accesses of a warp's
// lanes at one place of the code, the n-th time each of them is there since the warp last met, are
// one instruction.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble::emulator {

struct Counts {
  // Global memory moves in sectors of 32 bytes; bytes that lanes share are needed once.
  uint64_t global_read_sectors = 0, global_read_bytes = 0;
  uint64_t global_write_sectors = 0, global_write_bytes = 0;
  // Shared memory serves 32 banks of 4 bytes at once: 32 lanes of up to 4 bytes, 16 of 8, 8 of 16.
  // What needs a second turn because two lanes ask one bank for different words is a conflict.
  uint64_t shared_turns = 0, bank_conflicts = 0;
  uintptr_t worst_conflict_site = 0;  // of the instruction with the most in one execution
  uint64_t worst_conflict = 0;

  uint64_t mmas = 0, matrix_loads = 0, barriers = 0;
  uint64_t atomics = 0, shared_atomics = 0;  // of threads
  uint64_t bulk_copies = 0;
  uint64_t launches = 0, blocks = 0;
  // Launches that may start before those before them end, and what they read of global memory until
  // they wait for those.
  uint64_t dependent_launches = 0, early_read_bytes = 0;
  // What the host asked for: kernels outside of graphs, graphs, and copies (those of graphs too).
  uint64_t host_launches = 0, graph_launches = 0;
  uint64_t copies_to_device = 0, copies_to_host = 0, copies_on_device = 0;
  uint64_t shared_bytes = 0;  // of one block, the most of any launch
  uint64_t bytes_in_flight =
      0;  // asynchronous copies that one block had open at once, the most of any block

  // Sectors asked for over bytes needed, of reads and writes together; 1 is perfect.
  double GlobalExcess() const {
    const uint64_t bytes = global_read_bytes + global_write_bytes;
    return bytes == 0 ? 1.0 : 32.0 * (global_read_sectors + global_write_sectors) / bytes;
  }
};

// The open accesses of one warp.
class WarpLog {
 public:
  enum class Kind : uint8_t { kGlobalRead, kGlobalWrite, kShared };

  // `site` tells instructions apart; `address` is a global address, or an offset in shared memory.
  void Add(int lane, uintptr_t site, uint64_t address, uint32_t bytes, Kind kind) {
    lanes_[lane].push_back({site, address, bytes, kind});
  }
  // The warp's lanes meet: what they did since they last met becomes counts.
  void Flush(Counts& counts);

 private:
  struct Access {
    uintptr_t site = 0;
    uint64_t address = 0;
    uint32_t bytes = 0;
    Kind kind = Kind::kShared;
  };
  bool LanesAgree() const;
  void FlushDivergent(Counts& counts);
  static void Count(const std::vector<Access>& accesses, Counts& counts);
  static void CountGlobal(const std::vector<Access>& accesses, Counts& counts);
  static void CountShared(const std::vector<Access>& accesses, Counts& counts);

  std::array<std::vector<Access>, 32> lanes_;
};

}  // namespace nibble::emulator
