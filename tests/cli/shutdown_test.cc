#include "cli/shutdown.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "cli/io.h"

namespace nibble {
namespace {

class DrainCounter final : public Server {
 public:
  BoundPorts ports() const override { return {}; }
  EngineObserver* observer() override { return nullptr; }
  void ReportStartupPhase(absl::string_view, Duration) override {}
  void Serve(std::unique_ptr<Engine>, const ModelInfo&) override {}
  void Drain() override { ++drains; }
  absl::Status WaitUntilDrained() override { return absl::OkStatus(); }

  int drains = 0;
};

TEST(ShutdownDeathTest, ASignalBeforeThereIsAServerEndsTheProcess) {
  Shutdown shutdown;
  EXPECT_EXIT(shutdown.Hear(SIGTERM), ::testing::ExitedWithCode(kExitOk), "");
}

TEST(ShutdownTest, ASignalDrainsTheServerWhileItServes) {
  Shutdown shutdown;
  DrainCounter server;
  const Shutdown::Serving serving(shutdown, server);
  shutdown.Hear(SIGTERM);
  EXPECT_EQ(server.drains, 1);
}

// Left by an error too, as that of --port-file: the server is gone, and the exit code is the
// error's.
TEST(ShutdownTest, ASignalAfterTheScopeMeetsNoServer) {
  Shutdown shutdown;
  DrainCounter server;
  const auto fails = [&] {
    const Shutdown::Serving serving(shutdown, server);
    return absl::UnavailableError("--port-file /: cannot be written");
  };
  EXPECT_FALSE(fails().ok());
  shutdown.Hear(SIGTERM);
  EXPECT_EQ(server.drains, 0);
}

}  // namespace
}  // namespace nibble
