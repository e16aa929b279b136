// The bulk copies of the running block and the barriers in shared memory that their bytes arrive
// at: copies are done as late as the rules allow, when no thread can go on; until then their bytes
// are NaNs.
//
// Faults: a barrier used before its initialisation is seen (by copies: ordered; by other threads: a
// barrier of the block lies between); misaligned or empty copies; a source out of bounds; bytes
// that arrive in a phase that did not expect them; more arrivals than a phase has; copies, or
// expected bytes, still open at the block's end; and of what the copy goes over, all that
// SharedMemory knows: reads that no arrival or barrier orders before it, ordinary writes that
// nobody ordered for copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include "emulator/shared_memory.h"
#include "emulator/tensor_map.h"

namespace nibble::emulator {

class Block;
using Location = std::source_location;

class BulkCopies {
 public:
  explicit BulkCopies(Block& block) : block_(block) {}
  void StartBlock();

  // --- by the running thread
  void Init(uint32_t address, int arrivals, const Location& where);
  void OrderBarriers();
  void Arrive(uint32_t address, int bytes, const Location& where);
  // Whether the phase of that parity has ended; if so, the thread has seen it.
  bool HasEnded(uint32_t address, uint32_t parity, const Location& where);
  void Copy(uint32_t to, const void* from, int bytes, uint32_t barrier, const Location& where);
  void CopyRows(uint32_t to, const TensorMapFields& map, int col, int row, uint32_t barrier,
                const Location& where);

  // --- by the scheduler
  bool has_open() const { return !copies_.empty(); }
  // The oldest copy. Empty, or what is wrong.
  std::string FinishOne();
  // At the block's end: empty, or what is open.
  std::string Open() const;

 private:
  struct Barrier {
    uint32_t address = 0;
    int arrivals = 0, left = 0;  // of the phase
    int64_t bytes = 0;           // expected and not there
    uint32_t ended = 0;          // phases
    int maker = 0;               // thread
    uint32_t made_at = 0;        // SharedMemory::barriers()
    bool ordered = false;
    Seen arriving, seen;  // what those saw who arrived in this phase, and in phases that have ended
  };
  struct Piece {
    uint8_t* to;
    const uint8_t* from;
    int bytes;  // 0 of `from`: zeros
  };
  struct OpenCopy {
    std::vector<Piece> pieces;
    int size = 0;  // bytes, zeros among them
    int read = 0;  // without those
    int thread = 0;
    int barrier = 0;  // index
    uint32_t phase = 0;
    Location where;
  };
  static constexpr int kPieceBytes = 16;

  int IndexOf(uint32_t address, const Location& where) const;
  void EndPhaseIfOver(Barrier& barrier);
  void Start(OpenCopy copy, uint32_t barrier, const Location& where);

  Block& block_;
  std::vector<Barrier> barriers_;
  std::vector<OpenCopy> copies_;  // oldest first
};

}  // namespace nibble::emulator
