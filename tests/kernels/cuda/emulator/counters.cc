#include "emulator/counters.h"

#include <algorithm>
#include <map>
#include <utility>

namespace nibble::emulator {

// The common case: every lane that did anything did the same.
bool WarpLog::LanesAgree() const {
  const std::vector<Access>* first = nullptr;
  for (const auto& lane : lanes_) {
    if (lane.empty()) continue;
    if (first == nullptr) first = &lane;
    const auto same = [](const Access& a, const Access& b) {
      return a.site == b.site && a.kind == b.kind;
    };
    if (!std::equal(lane.begin(), lane.end(), first->begin(), first->end(), same)) return false;
  }
  return true;
}

void WarpLog::FlushDivergent(Counts& counts) {
  std::map<std::pair<uintptr_t, uint32_t>, std::vector<Access>> instructions;
  for (const auto& lane : lanes_) {
    std::map<uintptr_t, uint32_t> turns;
    for (const Access& access : lane) {
      instructions[{access.site, turns[access.site]++}].push_back(access);
    }
  }
  for (const auto& [key, accesses] : instructions) Count(accesses, counts);
}

void WarpLog::Flush(Counts& counts) {
  size_t most = 0;
  for (const auto& lane : lanes_) most = std::max(most, lane.size());
  if (most == 0) return;
  if (LanesAgree()) {
    std::vector<Access> accesses;
    for (size_t i = 0; i < most; ++i) {
      accesses.clear();
      for (const auto& lane : lanes_) {
        if (!lane.empty()) accesses.push_back(lane[i]);
      }
      Count(accesses, counts);
    }
  } else {
    FlushDivergent(counts);
  }
  for (auto& lane : lanes_) lane.clear();
}

void WarpLog::Count(const std::vector<Access>& accesses, Counts& counts) {
  accesses[0].kind == Kind::kShared ? CountShared(accesses, counts) : CountGlobal(accesses, counts);
}

void WarpLog::CountGlobal(const std::vector<Access>& accesses, Counts& counts) {
  std::array<std::pair<uint64_t, uint64_t>, 32> ranges;
  size_t n = 0;
  for (const Access& access : accesses)
    ranges[n++] = {access.address, access.address + access.bytes};
  std::sort(ranges.begin(), ranges.begin() + n);
  uint64_t bytes = 0, sectors = 0, next_byte = 0, next_sector = 0;
  for (size_t i = 0; i < n; ++i) {
    const auto [begin, end] = ranges[i];
    if (begin == end) continue;
    bytes += end - std::min(end, std::max(begin, next_byte));
    next_byte = std::max(next_byte, end);
    const uint64_t first = std::max(begin / 32, next_sector), last = (end - 1) / 32;
    if (last >= first) sectors += last - first + 1;
    next_sector = std::max(next_sector, last + 1);
  }
  const bool read = accesses[0].kind == Kind::kGlobalRead;
  (read ? counts.global_read_bytes : counts.global_write_bytes) += bytes;
  (read ? counts.global_read_sectors : counts.global_write_sectors) += sectors;
}

void WarpLog::CountShared(const std::vector<Access>& accesses, Counts& counts) {
  const uint32_t bytes = std::max<uint32_t>(accesses[0].bytes, 4);
  const size_t lanes_at_once = std::max<size_t>(128 / bytes, 1);
  uint64_t conflicts = 0;
  for (size_t begin = 0; begin < accesses.size(); begin += lanes_at_once) {
    const size_t end = std::min(begin + lanes_at_once, accesses.size());
    std::array<uint64_t, 1024> words;  // distinct ones
    size_t num_words = 0;
    for (size_t i = begin; i < end; ++i) {
      const Access& access = accesses[i];
      for (uint64_t word = access.address / 4; word <= (access.address + access.bytes - 1) / 4;
           ++word) {
        words[num_words++] = word;
      }
    }
    std::sort(words.begin(), words.begin() + num_words);
    const auto last = std::unique(words.begin(), words.begin() + num_words);
    std::array<uint32_t, 32> asked = {};
    uint32_t turns = 1;
    for (auto word = words.begin(); word != last; ++word)
      turns = std::max(turns, ++asked[*word % 32]);
    counts.shared_turns += turns;
    conflicts += turns - 1;
  }
  counts.bank_conflicts += conflicts;
  if (conflicts > counts.worst_conflict) {
    counts.worst_conflict = conflicts;
    counts.worst_conflict_site = accesses[0].site;
  }
}

}  // namespace nibble::emulator
