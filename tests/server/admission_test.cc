#include "server/admission.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "server/refusal.h"

namespace nibble {
namespace {

ServerLimits Limits(int32_t requests, int64_t tokens, int64_t bytes) {
  ServerLimits limits;
  limits.max_open_requests = requests;
  limits.max_queued_prompt_tokens = tokens;
  limits.max_queued_bytes = bytes;
  return limits;
}

void ExpectEmpty(const Admission& admission) {
  const Admission::Counts counts = admission.counts();
  EXPECT_EQ(counts.open_requests, 0);
  EXPECT_EQ(counts.queued_prompt_tokens, 0);
  EXPECT_EQ(counts.queued_bytes, 0);
}

TEST(AdmissionTest, EachLimitRefusesByItsName) {
  struct Case {
    ServerLimits limits;
    const char* quota;
  };
  for (const Case& c : {Case{Limits(1, 1000, 1000), "open_requests"},
                        Case{Limits(9, 15, 1000), "queued_prompt_tokens"},
                        Case{Limits(9, 1000, 150), "queued_bytes"}}) {
    Admission admission(c.limits);
    auto first = admission.Admit(10, 100);
    ASSERT_TRUE(first.ok());
    auto second = admission.Admit(10, 100);
    ASSERT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted) << c.quota;
    EXPECT_EQ(PayloadOf(second.status(), kQuotaPayload), c.quota);
    EXPECT_EQ(PayloadOf(second.status(), kRetryPayload), "1000");
    EXPECT_EQ(admission.counts().open_requests, 1) << "a refusal counts nothing";
    EXPECT_EQ(admission.counts().queued_bytes, 100);
  }
}

// Retrying would never help it; whether it fits the model is not for admission to say.
TEST(AdmissionTest, ARequestAloneFitsHoweverLarge) {
  Admission admission(Limits(2, 10, 10));
  auto ticket = admission.Admit(1000, 1000);
  ASSERT_TRUE(ticket.ok());
  EXPECT_FALSE(admission.Admit(1, 1).ok());
}

TEST(AdmissionTest, ATicketGivesBackOnceAndInTwoParts) {
  Admission admission(Limits(2, 100, 100));
  auto ticket = admission.Admit(50, 60);
  ASSERT_TRUE(ticket.ok());
  ticket->ReleaseQueued();
  EXPECT_EQ(admission.counts().open_requests, 1);
  EXPECT_EQ(admission.counts().queued_prompt_tokens, 0);
  EXPECT_EQ(admission.counts().queued_bytes, 0);
  ticket->ReleaseQueued();
  ticket->Release();
  ticket->Release();
  ExpectEmpty(admission);
}

TEST(AdmissionTest, AMovedTicketIsReleasedByItsNewOwner) {
  Admission admission(Limits(2, 100, 100));
  {
    Admission::Ticket outer;
    {
      auto ticket = admission.Admit(5, 5);
      ASSERT_TRUE(ticket.ok());
      outer = *std::move(ticket);
    }
    EXPECT_EQ(admission.counts().open_requests, 1);
    auto other = admission.Admit(7, 7);
    ASSERT_TRUE(other.ok());
    outer = *std::move(other);  // what it held before goes back
    EXPECT_EQ(admission.counts().open_requests, 1);
    EXPECT_EQ(admission.counts().queued_prompt_tokens, 7);
  }
  ExpectEmpty(admission);
}

TEST(AdmissionTest, TheTrueLengthReplacesTheGuess) {
  Admission admission(Limits(3, 100, 1000));
  auto first = admission.Admit(60, 1);
  auto second = admission.Admit(10, 1);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(second->SetPromptTokens(40).ok());
  EXPECT_EQ(admission.counts().queued_prompt_tokens, 100);
  const absl::Status over = second->SetPromptTokens(41);
  EXPECT_EQ(over.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(admission.counts().queued_prompt_tokens, 100) << "what does not fit changes nothing";
}

// Deciding and counting must be one step: a burst that checks first and counts later passes the
// limit.
TEST(AdmissionTest, ABurstFromManyThreadsNeverPassesTheLimit) {
  constexpr int32_t kLimit = 7;
  Admission admission(Limits(kLimit, 1 << 20, 1 << 20));
  std::atomic<int> inside{0};
  std::atomic<int> most{0};
  std::atomic<int64_t> admitted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        auto ticket = admission.Admit(3, 5);
        if (!ticket.ok()) continue;
        ++admitted;
        const int now = ++inside;
        for (int seen = most.load(); now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most.load(), kLimit);
  EXPECT_GT(admitted.load(), 0);
  ExpectEmpty(admission);
}

// An answer that its client has not taken is held as its request was.
TEST(AdmissionTest, WhatACallHoldsMayGrowWithinTheLimit) {
  Admission admission(Limits(9, 100, 1000));
  auto first = admission.Admit(0, 100);
  auto second = admission.Admit(0, 100);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(first->SetBytes(900).ok());
  EXPECT_EQ(admission.counts().queued_bytes, 1000);
  const absl::Status full = second->SetBytes(101);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(PayloadOf(full, kQuotaPayload), "queued_bytes");
  EXPECT_EQ(admission.counts().queued_bytes, 1000) << "what does not fit changes nothing";
  first->Release();
  EXPECT_TRUE(second->SetBytes(5000).ok()) << "one alone always fits";
  second->Release();
  EXPECT_EQ(admission.counts().queued_bytes, 0);
}

}  // namespace
}  // namespace nibble
