#include "kernels/cpu/lane_cuts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace nibble::cpu {
namespace {

struct Sequence {
  int32_t tokens, context;
};

// A step of those sequences; keeps the arrays that `shape` looks at.
struct Step {
  Step(std::vector<Sequence> all, int32_t num_threads, int32_t block_size = 32) {
    cu_seqlens.push_back(0);
    for (const Sequence& sequence : all) {
      cu_seqlens.push_back(cu_seqlens.back() + sequence.tokens);
      contexts.push_back(sequence.context);
    }
    shape.num_threads = num_threads;
    shape.block_size = block_size;
    shape.cu_seqlens = cu_seqlens;
    shape.context_lens = contexts;
    shape.row_macs = 106'000'000;  // SmolLM2-135M's
    shape.position_macs = 34'560;
  }
  std::vector<int32_t> cu_seqlens, contexts;
  StepShape shape;
};

std::vector<int32_t> RowsOf(const std::vector<Lane>& lanes) {
  std::vector<int32_t> rows;
  for (const Lane& lane : lanes) rows.push_back(lane.end - lane.begin);
  return rows;
}

// Sequence and position of every row.
std::vector<std::pair<int32_t, int32_t>> PlacesOf(absl::Span<const int32_t> cu_seqlens,
                                                  absl::Span<const int32_t> contexts,
                                                  int32_t first_sequence) {
  std::vector<std::pair<int32_t, int32_t>> places;
  for (size_t s = 0; s < contexts.size(); ++s) {
    const int32_t n = cu_seqlens[s + 1] - cu_seqlens[s];
    for (int32_t i = 0; i < n; ++i) {
      places.emplace_back(first_sequence + static_cast<int32_t>(s), contexts[s] - n + i);
    }
  }
  return places;
}

TEST(LaneCutsTest, DecodeRowsAreSharedOutEvenly) {
  for (int32_t n : {16, 32, 40, 64, 100, 128}) {
    const Step step(std::vector<Sequence>(n, {1, 160}), 2);
    EXPECT_EQ(RowsOf(CutLanes(step.shape)), (std::vector<int32_t>{n / 2, n / 2}));
  }
}

TEST(LaneCutsTest, FewRowsOrOneThreadAreNotCut) {
  for (const auto& [rows, threads] : {std::pair{15, 2}, {512, 1}, {1, 2}, {63, 4}, {255, 8}}) {
    const Step step(std::vector<Sequence>(rows, {1, 100}), threads);
    EXPECT_TRUE(CutLanes(step.shape).empty()) << rows << " rows, " << threads << " threads";
  }
  const Step step(std::vector<Sequence>(256, {1, 100}), 8);
  EXPECT_EQ(CutLanes(step.shape).size(), 8u);
}

TEST(LaneCutsTest, TheLanesOfALongPromptBecomeShort) {
  const Step step({{512, 512}}, 2);
  const std::vector<int32_t> rows = RowsOf(CutLanes(step.shape));
  ASSERT_GE(rows.size(), 8u);
  EXPECT_EQ(rows.front(), 64);
  EXPECT_EQ(rows.back(), 32);
  EXPECT_TRUE(std::is_sorted(rows.rbegin(), rows.rend()));
}

// A row at a context of 30,000 takes as long as 60 short ones, whatever lane it is in.
TEST(LaneCutsTest, WhatCannotBeSharedEvenlyIsNotCut) {
  std::vector<Sequence> sequences(32, {1, 100});
  sequences[7].context = 30'000;
  const Step step(sequences, 2);
  EXPECT_TRUE(CutLanes(step.shape).empty());
  const Step blocks({{300, 300}}, 2, 256);
  EXPECT_TRUE(CutLanes(blocks.shape).empty()) << "256 rows and 44";
}

TEST(LaneCutsTest, LongContextsWeighMore) {
  std::vector<Sequence> sequences(48, {1, 10});
  for (int32_t i = 0; i < 12; ++i) sequences[i].context = 400;
  const Step step(sequences, 2);
  const std::vector<int32_t> rows = RowsOf(CutLanes(step.shape));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_LT(rows[0], rows[1]);
}

TEST(LaneCutsTest, ALaneIsAStepOfItsOwn) {
  const Step step({{1, 77}, {40, 40}, {100, 120}, {1, 5}}, 2, 8);
  const std::vector<Lane> lanes = CutLanes(step.shape);
  ASSERT_GE(lanes.size(), 2u);
  EXPECT_EQ(lanes[0].first_sequence, 0);
  EXPECT_EQ(lanes[0].context_lens[0], 77);
  EXPECT_EQ(lanes.back().context_lens.back(), 5);
}

// Random steps: lanes have all rows once and in order, each with its sequence and position; they
// part a sequence at the blocks of the cache only, and know whose rows theirs need.
TEST(LaneCutsTest, HoldsForRandomSteps) {
  std::mt19937 random(5);
  const auto draw = [&random](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  int cut = 0, parted = 0;
  for (int i = 0; i < 2000; ++i) {
    const int32_t threads = draw(2, 5), block = 8 << draw(0, 3);
    std::vector<Sequence> sequences(draw(1, 60));
    for (Sequence& sequence : sequences) {
      sequence.tokens = draw(0, 3) == 0 ? draw(1, 300) : 1;
      sequence.context = sequence.tokens + draw(0, 400);
    }
    const Step step(sequences, threads, block);
    const auto places = PlacesOf(step.cu_seqlens, step.contexts, 0);
    const std::vector<Lane> lanes = CutLanes(step.shape);
    if (lanes.empty()) continue;
    ++cut;
    ASSERT_GE(static_cast<int32_t>(lanes.size()), threads);
    int32_t row = 0;
    for (size_t l = 0; l < lanes.size(); ++l) {
      const Lane& lane = lanes[l];
      ASSERT_EQ(lane.begin, row);
      ASSERT_GT(lane.end, row);
      ASSERT_EQ(lane.cu_seqlens.size(), lane.context_lens.size() + 1);
      const auto own = PlacesOf(lane.cu_seqlens, lane.context_lens, lane.first_sequence);
      ASSERT_EQ(static_cast<int32_t>(own.size()), lane.end - lane.begin);
      ASSERT_TRUE(std::equal(own.begin(), own.end(), places.begin() + row));
      const bool starts = row == 0 || places[row - 1].first != places[row].first;
      ASSERT_TRUE(starts || places[row].second % block == 0);
      size_t needed = l;
      for (size_t e = l; e-- > 0;) {
        if (places[lanes[e].end - 1].first == places[row].first) needed = e;
      }
      ASSERT_EQ(lane.first_needed, static_cast<int32_t>(needed));
      parted += needed < l ? 1 : 0;
      row = lane.end;
    }
    ASSERT_EQ(row, static_cast<int32_t>(places.size()));
  }
  EXPECT_GT(cut, 500);
  EXPECT_GT(parted, 500);
}

}  // namespace
}  // namespace nibble::cpu
