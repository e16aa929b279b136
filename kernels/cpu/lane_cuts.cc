#include "kernels/cpu/lane_cuts.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {
namespace {

// A tile of a linear: of fewer, unpacking weights costs more than what lanes save.
constexpr int32_t kMinLaneRows = 8;
// A lane has at least as many rows for each thread. Every lane reads all weights, and not when the
// others do: with n rows a thread of 170 GMAC/s reads 96 / n GB/s of 4-bit weights, and all threads
// together, by this, no more than 24 GB/s (but for the short lanes that a long step ends with).
constexpr int32_t kLaneRowsAThread = 4;
// What a linear multiplies a block of weights with before it takes the next (kTokenBlock of
// linear.cc); and the activations of as many rows stay in an L2 cache from op to op.
constexpr int32_t kMostLaneRows = 64;
// Multiply-adds of a linear that take as long as one of attention: of a row alone, which waits for
// the cache's lines, and of rows that share them. Measured with Q4_1 weights and an f16 cache.
constexpr double kLoneAttention = 7, kSharedAttention = 1.4;
// Lanes may take this much longer than an even share: what barriers take of a step without them,
// 5 % where the threads' cores share a cache and 15 % where they do not.
constexpr double kMostUneven = 1.1;

struct Cut {
  int32_t row;
  double cost;  // of all rows before
};

// All cuts that are allowed, with row 0 and the number of rows.
std::vector<Cut> AllowedCuts(const StepShape& shape) {
  std::vector<Cut> cuts;
  double cost = 0;
  for (size_t s = 0; s < shape.context_lens.size(); ++s) {
    const int32_t begin = shape.cu_seqlens[s], n = shape.cu_seqlens[s + 1] - begin;
    const int32_t before = shape.context_lens[s] - n;
    const double seen_macs =
        static_cast<double>(shape.position_macs) * (n == 1 ? kLoneAttention : kSharedAttention);
    for (int32_t i = 0; i < n; ++i) {
      if (i == 0 || (before + i) % shape.block_size == 0) cuts.push_back({begin + i, cost});
      cost += static_cast<double>(shape.row_macs) + seen_macs * (before + i + 1);
    }
  }
  cuts.push_back({shape.cu_seqlens.back(), cost});
  return cuts;
}

// The cut after `from` that is next to `wanted` of its cost, at most kMostLaneRows and, if there
// are as many, at least kMinLaneRows behind it.
size_t NextCut(const std::vector<Cut>& allowed, size_t from, double wanted) {
  size_t best = from + 1;
  for (size_t i = from + 1; i < allowed.size(); ++i) {
    const int32_t rows = allowed[i].row - allowed[from].row;
    if (rows > kMostLaneRows && i > from + 1) break;
    const auto off = [&](size_t cut) { return std::abs(allowed[cut].cost - wanted); };
    if (off(i) <= off(best) || allowed[best].row - allowed[from].row < kMinLaneRows) best = i;
  }
  return allowed.back().row - allowed[best].row < kMinLaneRows ? allowed.size() - 1 : best;
}

// A lane a thread where that makes none too long; else the first ones long and the last ones short,
// so that whichever thread comes late, the others wait for a short one.
std::vector<Cut> ChooseCuts(const std::vector<Cut>& allowed, int32_t threads) {
  const double total = allowed.back().cost;
  const bool one_each = allowed.back().row <= kMostLaneRows * threads;
  std::vector<Cut> cuts = {allowed.front()};
  for (size_t at = 0; at + 1 < allowed.size(); cuts.push_back(allowed[at])) {
    const double left = total - allowed[at].cost;
    const auto lanes = static_cast<int32_t>(cuts.size());
    const double share = one_each ? left / std::max(threads - lanes + 1, 1) : left / (2 * threads);
    at = NextCut(allowed, at, allowed[at].cost + share);
  }
  return cuts;
}

// When the last lane is done, a thread that is free taking the next one.
double TimeOf(const std::vector<Cut>& cuts, int32_t num_threads) {
  std::vector<double> free_at(num_threads, 0);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    *std::min_element(free_at.begin(), free_at.end()) += cuts[i + 1].cost - cuts[i].cost;
  }
  return *std::max_element(free_at.begin(), free_at.end());
}

Lane LaneOf(const StepShape& shape, int32_t begin, int32_t end) {
  const auto& starts = shape.cu_seqlens;
  Lane lane{.begin = begin, .end = end};
  lane.first_sequence = static_cast<int32_t>(
      std::upper_bound(starts.begin(), starts.end() - 1, begin) - starts.begin() - 1);
  lane.cu_seqlens.push_back(0);
  for (int32_t s = lane.first_sequence; lane.cu_seqlens.back() < end - begin; ++s) {
    const int32_t seq_end = std::min(starts[s + 1], end);
    lane.cu_seqlens.push_back(seq_end - begin);
    lane.context_lens.push_back(shape.context_lens[s] - (starts[s + 1] - seq_end));
  }
  return lane;
}

}  // namespace

std::vector<Lane> CutLanes(const StepShape& shape) {
  const int32_t threads = shape.num_threads, rows = shape.cu_seqlens.back();
  const int64_t least = std::max(kMinLaneRows, kLaneRowsAThread * threads);
  if (threads == 1 || rows < least * threads) return {};
  const std::vector<Cut> allowed = AllowedCuts(shape);
  const std::vector<Cut> cuts = ChooseCuts(allowed, threads);
  if (TimeOf(cuts, threads) * threads > kMostUneven * allowed.back().cost) return {};
  std::vector<Lane> lanes;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    lanes.push_back(LaneOf(shape, cuts[i].row, cuts[i + 1].row));
    const int32_t sequence_begin = shape.cu_seqlens[lanes.back().first_sequence];
    int32_t needed = static_cast<int32_t>(i);
    while (needed > 0 && lanes[needed - 1].end > sequence_begin) --needed;
    lanes.back().first_needed = needed;
  }
  return lanes;
}

}  // namespace nibble::cpu
