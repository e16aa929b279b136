#include "emulator/bulk_copies.h"

#include <algorithm>
#include <cstring>

#include "emulator/gpu.h"

namespace nibble::emulator {

void BulkCopies::StartBlock() {
  barriers_.clear();
  copies_.clear();
}

void BulkCopies::Init(uint32_t address, int arrivals, const Location& where) {
  const uint8_t* place = block_.SharedPointer(address, 8, where);
  const int thread = block_.thread().id;
  const std::string wrong = block_.shared().Access(place, 8, true, thread);
  if (!wrong.empty()) block_.Fail("barrier: " + wrong, &where);
  if (arrivals < 1) block_.Fail("a barrier of no arrivals", &where);
  if (barriers_.size() == Seen::kMostBarriers) block_.Fail("more barriers than are kept", &where);
  for (const Barrier& barrier : barriers_) {
    if (barrier.address == address) block_.Fail("a barrier that is one already", &where);
  }
  Barrier barrier;
  barrier.address = address;
  barrier.arrivals = barrier.left = arrivals;
  barrier.maker = thread;
  barrier.made_at = block_.shared().barriers();
  barriers_.push_back(barrier);
}

void BulkCopies::OrderBarriers() {
  for (Barrier& barrier : barriers_) {
    if (barrier.maker == block_.thread().id) barrier.ordered = true;
  }
}

int BulkCopies::IndexOf(uint32_t address, const Location& where) const {
  for (size_t i = 0; i < barriers_.size(); ++i) {
    const Barrier& barrier = barriers_[i];
    if (barrier.address != address) continue;
    if (barrier.maker != block_.thread().id && barrier.made_at == block_.shared().barriers())
      block_.Fail("a barrier whose initialisation is not ordered before", &where);
    return static_cast<int>(i);
  }
  block_.Fail("no barrier lies there", &where);
}

void BulkCopies::Arrive(uint32_t address, int bytes, const Location& where) {
  Barrier& barrier = barriers_[IndexOf(address, where)];
  if (barrier.left == 0) block_.Fail("more arrivals than the phase has", &where);
  const Thread& me = block_.thread();
  barrier.arriving.Join(block_.shared().SeenWhenArriving(me.id));
  barrier.bytes += bytes;
  --barrier.left;
  EndPhaseIfOver(barrier);
}

void BulkCopies::EndPhaseIfOver(Barrier& barrier) {
  if (barrier.left > 0 || barrier.bytes != 0) return;
  ++barrier.ended;
  barrier.left = barrier.arrivals;
  barrier.seen.Join(barrier.arriving);
  block_.WakeWaiting();
}

bool BulkCopies::HasEnded(uint32_t address, uint32_t parity, const Location& where) {
  const int index = IndexOf(address, where);
  const Barrier& barrier = barriers_[index];
  if ((barrier.ended & 1) == parity) return false;
  Seen seen = barrier.seen;
  seen.phases[index] = barrier.ended;
  block_.shared().Join(block_.thread().id, seen);
  return true;
}

void BulkCopies::Copy(uint32_t to, const void* from, int bytes, uint32_t barrier,
                      const Location& where) {
  if (bytes <= 0 || bytes % kPieceBytes != 0) block_.Fail("a bulk copy of no 16 bytes", &where);
  OpenCopy copy;
  uint8_t* target = block_.SharedPointer(to, kPieceBytes, where);
  const auto* source = static_cast<const uint8_t*>(from);
  block_.ReadForCopy(source, bytes, where);
  for (int at = 0; at < bytes; at += kPieceBytes)
    copy.pieces.push_back({target + at, source + at, kPieceBytes});
  Start(std::move(copy), barrier, where);
}

void BulkCopies::CopyRows(uint32_t to, const TensorMapFields& map, int col, int row,
                          uint32_t barrier, const Location& where) {
  if (map.mark == 0) block_.Fail("no tensor map", &where);
  if (to % 1024 != 0) block_.Fail("rows at no 1024 bytes of shared memory", &where);
  OpenCopy copy;
  for (int r = 0; r < static_cast<int>(map.box_rows); ++r) {
    const bool is_row = row + r >= 0 && static_cast<uint64_t>(row + r) < map.rows;
    const int64_t left = is_row ? static_cast<int64_t>(map.cols) - col : 0;
    const int valid = static_cast<int>(std::clamp<int64_t>(left, 0, map.box_cols)) * 2;
    const uint8_t* from =
        map.values +
        static_cast<int64_t>(is_row ? row + r : 0) * static_cast<int64_t>(map.stride_bytes) +
        int64_t{col} * 2;
    if (valid > 0) block_.ReadForCopy(from, valid, where);
    for (int chunk = 0; chunk < 8; ++chunk) {
      uint8_t* target = block_.SharedPointer(
          to + static_cast<uint32_t>(r * 128 + (chunk ^ r % 8) * kPieceBytes), kPieceBytes, where);
      copy.pieces.push_back({target, from + chunk * kPieceBytes,
                             std::clamp(valid - chunk * kPieceBytes, 0, kPieceBytes)});
    }
  }
  Start(std::move(copy), barrier, where);
}

void BulkCopies::Start(OpenCopy copy, uint32_t barrier, const Location& where) {
  copy.barrier = IndexOf(barrier, where);
  if (!barriers_[copy.barrier].ordered)
    block_.Fail("a barrier whose initialisation is not ordered for copies", &where);
  copy.phase = barriers_[copy.barrier].ended;
  copy.thread = block_.thread().id;
  copy.where = where;
  copy.size = static_cast<int>(copy.pieces.size()) * kPieceBytes;
  for (const Piece& piece : copy.pieces) {
    const std::string wrong =
        block_.shared().StartBulkCopy(piece.to, kPieceBytes, copy.thread, copy.barrier, copy.phase);
    if (!wrong.empty()) block_.Fail("bulk copy: " + wrong, &where);
    std::memset(piece.to, 0xFF, kPieceBytes);
    copy.read += piece.bytes;
  }
  block_.CountInFlight(copy.thread, copy.read);
  ++block_.counts().bulk_copies;
  copies_.push_back(std::move(copy));
}

std::string BulkCopies::FinishOne() {
  const OpenCopy copy = std::move(copies_.front());
  copies_.erase(copies_.begin());
  Barrier& barrier = barriers_[copy.barrier];
  if (copy.phase != barrier.ended || barrier.bytes < copy.size)
    return "bytes of a bulk copy arrive that its phase did not expect";
  for (const Piece& piece : copy.pieces) {
    std::memset(piece.to, 0, kPieceBytes);
    std::memcpy(piece.to, piece.from, piece.bytes);
    block_.shared().FinishBulkCopy(piece.to, kPieceBytes);
  }
  block_.CountInFlight(copy.thread, -copy.read);
  barrier.bytes -= copy.size;
  EndPhaseIfOver(barrier);
  return "";
}

std::string BulkCopies::Open() const {
  if (!copies_.empty()) return "ends with bulk copies that nobody waited for";
  for (const Barrier& barrier : barriers_) {
    if (barrier.bytes != 0) return "ends with bytes that a barrier still expects";
  }
  return "";
}

}  // namespace nibble::emulator
