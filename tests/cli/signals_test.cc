#include "cli/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>

#include "cli/interrupt.h"

namespace nibble {
namespace {

// Runs `body` in a child, as signals and exits belong to a whole process; its exit code, or
// -signal.
int ExitCodeOf(void (*body)()) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(99);  // the body ends the process itself
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(SignalWaiterTest, TheFirstSignalIsACallOnAThreadOfItsOwn) {
  EXPECT_EQ(ExitCodeOf([] {
              std::promise<int> heard;
              SignalWaiter waiter([&heard](int signal) { heard.set_value(signal); });
              kill(getpid(), SIGTERM);
              _exit(heard.get_future().get() == SIGTERM ? 0 : 1);
            }),
            0);
}

TEST(SignalWaiterTest, ASecondSignalEndsTheProcessAtOnce) {
  EXPECT_EQ(ExitCodeOf([] {
              std::promise<void> first;
              SignalWaiter waiter([&first](int) { first.set_value(); });
              kill(getpid(), SIGTERM);
              first.get_future().wait();
              kill(getpid(), SIGINT);
              std::promise<void>().get_future().wait();
            }),
            128 + SIGINT);
}

TEST(SignalWaiterTest, EndsWithoutASignal) {
  EXPECT_EQ(ExitCodeOf([] {
              {
                SignalWaiter waiter([](int) { _exit(1); });
              }
              _exit(0);
            }),
            0);
}

TEST(InterruptTest, ASignalCancelsWhatIsGoingOn) {
  EXPECT_EQ(ExitCodeOf([] {
              std::promise<void> cancelled;
              Interrupt interrupt;
              interrupt.OnInterrupt([&cancelled] { cancelled.set_value(); });
              kill(getpid(), SIGINT);
              cancelled.get_future().wait();
              interrupt.OnInterrupt(nullptr);
              _exit(interrupt.seen() ? 0 : 1);
            }),
            0);
}

TEST(InterruptTest, ASignalWithNothingToCancelEndsTheProcess) {
  EXPECT_EQ(ExitCodeOf([] {
              Interrupt interrupt;
              kill(getpid(), SIGINT);
              std::promise<void>().get_future().wait();
            }),
            128 + SIGINT);
}

}  // namespace
}  // namespace nibble
