#include "kernels/cpu/thread_pool.h"

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace nibble {
namespace {

void WaitUntilAsleep(const ThreadPool& pool) {
  while (pool.num_sleeping() != pool.size() - 1) std::this_thread::yield();
}

class ThreadPoolTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 5, 8));

TEST_P(ThreadPoolTest, RunsEveryPartOnceAndSeesItsWrites) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    const int num_parts = static_cast<int>(random() % 40);
    std::vector<int> runs(num_parts,
                          0);  // plain ints: TSan sees a part run twice, or a result read early
    pool.Run(num_parts, [&](int part) { runs[part] += part + 1; });
    for (int part = 0; part < num_parts; ++part) ASSERT_EQ(runs[part], part + 1) << round;
  }
}

TEST_P(ThreadPoolTest, AStaticSplitHasOnePartAThread) {
  ThreadPool pool(GetParam());
  std::vector<int> of(pool.size(), 0);
  pool.Run([&](int part, int num_parts) { of[part] = num_parts; });
  EXPECT_EQ(of, std::vector<int>(GetParam(), GetParam()));
}

// An idle server must cost nothing: the workers leave their spin for a condition variable.
TEST_P(ThreadPoolTest, WorkersSleepWhenIdleAndWakeForWork) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    WaitUntilAsleep(pool);
    std::atomic<int> runs{0};
    pool.Run(2 * pool.size(), [&](int) { runs.fetch_add(1); });
    ASSERT_EQ(runs.load(), 2 * pool.size());
  }
}

// A part that blocks until every thread of the pool runs one proves that sleepers are woken, all of
// them.
TEST_P(ThreadPoolTest, AllThreadsTakePart) {
  ThreadPool pool(GetParam());
  WaitUntilAsleep(pool);
  std::atomic<int> arrived{0};
  pool.Run(pool.size(), [&](int) {
    arrived.fetch_add(1);
    while (arrived.load() < pool.size()) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), pool.size());
}

// The caller gives up spinning on a part that takes long (40 times the spin), and is woken by its
// end. Where the worker comes too late for a part the caller runs both, and there is nothing to
// wait for.
TEST(ThreadPoolTest, TheCallerSleepsBehindASlowPart) {
  ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 5; ++round) {
    std::atomic<bool> caller_is_in{false};
    int done[2] = {};
    pool.Run(2, [&](int part) {
      if (std::this_thread::get_id() == caller) {
        caller_is_in.store(true);
      } else {
        while (!caller_is_in.load()) std::this_thread::yield();
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
        while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
      }
      done[part] = 1;
    });
    EXPECT_EQ(done[0] + done[1], 2);
  }
}

TEST(ThreadPoolTest, StopsWhetherAsleepOrJustStarted) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(4);
    if (round % 2 == 0) WaitUntilAsleep(pool);
  }
}

// Two nodes that share cpu 0, so that every machine has them.
cpu::NumaPlacement TwoNodes(int num_threads) {
  return cpu::NumaPlacement({{.id = 0, .cpus = {0}}, {.id = 0, .cpus = {0}}}, num_threads);
}

// As RunsEveryPartOnce, with parts left over by one node and taken by the other, and nodes that
// have no thread (one thread on two nodes).
TEST_P(ThreadPoolTest, RunsEveryPartOnceOnTwoNodes) {
  ThreadPool pool(GetParam(), TwoNodes(GetParam()));
  std::mt19937 random(8);
  for (int round = 0; round < 300; ++round) {
    const int num_parts = static_cast<int>(random() % 40);
    std::vector<int> runs(num_parts, 0);
    pool.Run(num_parts, [&](int part) { runs[part] += part + 1; });
    for (int part = 0; part < num_parts; ++part) ASSERT_EQ(runs[part], part + 1) << round;
  }
}

// The first part that the worker of two threads runs, both having to run one before either may run
// a second.
int FirstPartOfWorker(ThreadPool& pool, int num_parts) {
  const std::thread::id caller = std::this_thread::get_id();
  WaitUntilAsleep(pool);  // one still looking for parts of the last job may begin anywhere
  std::atomic<int> arrived{0};
  std::atomic<int> first_of_worker{-1};
  pool.Run(num_parts, [&](int part) {
    int none = -1;
    if (std::this_thread::get_id() != caller) first_of_worker.compare_exchange_strong(none, part);
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  return first_of_worker.load();
}

TEST(ThreadPoolTest, AThreadBeginsWithARunOfItsOwn) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) EXPECT_EQ(FirstPartOfWorker(pool, 8), 4) << round;
  EXPECT_EQ(FirstPartOfWorker(pool, 3), 1);
}

TEST(ThreadPoolTest, AThreadBeginsWithThePartsOfItsNode) {
  ThreadPool pool(2, TwoNodes(2));
  for (int round = 0; round < 20; ++round) EXPECT_GE(FirstPartOfWorker(pool, 8), 4) << round;
}

TEST(ThreadPoolTest, NoPartsIsNoWork) {
  ThreadPool pool(3);
  pool.Run(0, [](int) { FAIL() << "ran a part"; });
}

}  // namespace
}  // namespace nibble
