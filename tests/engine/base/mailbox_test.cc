#include "engine/base/mailbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(MailboxTest, TakesEverythingInOrderAndOnce) {
  Mailbox<int> mailbox;
  mailbox.Post(1);
  mailbox.Post(2);
  EXPECT_THAT(mailbox.Take(), ElementsAre(1, 2));
  EXPECT_THAT(mailbox.Take(), IsEmpty());
}

TEST(MailboxTest, WaitReturnsAtOnceWhenSomethingIsThereOrTheDeadlineIsPast) {
  Mailbox<int> mailbox;
  mailbox.Wait(Instant{});
  mailbox.Post(1);
  mailbox.Wait(std::nullopt);
}

TEST(MailboxTest, APostWakesTheWaiter) {
  Mailbox<int> mailbox;
  std::thread poster([&] { mailbox.Post(7); });
  mailbox.Wait(std::nullopt);
  EXPECT_THAT(mailbox.Take(), ElementsAre(7));
  poster.join();
}

TEST(MailboxTest, LosesNothingFromManyThreads) {
  Mailbox<int> mailbox;
  std::vector<std::thread> posters;
  for (int t = 0; t < 4; ++t) {
    posters.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) mailbox.Post(i);
    });
  }
  size_t taken = 0;
  while (taken < 4000) {
    mailbox.Wait(std::nullopt);
    taken += mailbox.Take().size();
  }
  for (std::thread& poster : posters) poster.join();
  EXPECT_THAT(mailbox.Take(), IsEmpty());
}

}  // namespace
}  // namespace nibble
