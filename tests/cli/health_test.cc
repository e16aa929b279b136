#include "cli/health.h"

#include <gtest/gtest.h>

#include <sstream>

#include "tests/cli/fake_service.h"

namespace nibble {
namespace {

using grpc::health::v1::HealthCheckResponse;

class HealthTest : public ::testing::Test {
 protected:
  int Ask(std::string service = "") {
    HealthFlags flags;
    flags.remote.server = service_.address;
    flags.service = std::move(service);
    return RunHealth(flags, Io{in_, out_, err_});
  }
  FakeService service_;
  std::istringstream in_;
  std::ostringstream out_, err_;
};

TEST_F(HealthTest, ServingIsZero) {
  EXPECT_EQ(Ask(), kExitOk);
  EXPECT_EQ(out_.str(), "SERVING\n");
}

TEST_F(HealthTest, AnythingElseIsOne) {
  service_.health = HealthCheckResponse::NOT_SERVING;
  EXPECT_EQ(Ask(), kExitFailure);
  EXPECT_EQ(out_.str(), "NOT_SERVING\n");
}

TEST_F(HealthTest, AnUnknownServiceIsOneAndSaysWhy) {
  EXPECT_EQ(Ask("unknown"), kExitFailure);
  EXPECT_EQ(err_.str(), "nibble: NOT_FOUND: unknown service\n");
}

TEST(RunHealthTest, NoServerIsOneAndNoAddressIsWrongUsage) {
  std::istringstream in;
  std::ostringstream out, err;
  HealthFlags flags;
  EXPECT_EQ(RunHealth(flags, Io{in, out, err}), kExitUsage);
  flags.remote.server = "127.0.0.1:1";  // nothing can listen there without being root
  EXPECT_EQ(RunHealth(flags, Io{in, out, err}), kExitFailure);
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace nibble
