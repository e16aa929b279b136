#include "cli/hints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ServerOptions Options() {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "127.0.0.1:0";
  options.model_name = "tiny";
  return options;
}

TEST(ReachableAddressTest, TakesTheChosenPortAndAHostOfThisMachine) {
  EXPECT_EQ(ReachableAddress("127.0.0.1:0", 40001), "127.0.0.1:40001");
  EXPECT_EQ(ReachableAddress("0.0.0.0:50051", 50051), "127.0.0.1:50051");
  EXPECT_EQ(ReachableAddress("[::]:50051", 50051), "[::1]:50051");
  EXPECT_EQ(ReachableAddress("gpu7:50051", 50051), "gpu7:50051");
}

TEST(ServingHintsTest, NamesToolsTheRealPortAndTheMethod) {
  HintContext context;
  context.program = "build/nibble";
  const std::string text = ServingHints(Options(), {40001, 40002, 0}, context);
  EXPECT_THAT(text, HasSubstr("grpcurl -plaintext -d '"));
  EXPECT_THAT(text, HasSubstr("127.0.0.1:40001 nibble.v1.GenerationService/GenerateStream"));
  EXPECT_THAT(text, HasSubstr("ghz --insecure --call nibble.v1.GenerationService/GenerateStream"));
  EXPECT_THAT(text, HasSubstr("build/nibble generate --server 127.0.0.1:40001 --chat"));
  EXPECT_THAT(text, HasSubstr("http://127.0.0.1:40002/metrics"));
}

TEST(ServingHintsTest, WithTlsEveryLineSaysSo) {
  ServerOptions options = Options();
  options.tls = {"s.pem", "s.key", "ca.pem"};
  const std::string text = ServingHints(options, {1, 2, 0}, HintContext{"nibble"});
  EXPECT_THAT(text, Not(HasSubstr("-plaintext")));
  EXPECT_THAT(text, Not(HasSubstr("--insecure")));
  EXPECT_THAT(text, HasSubstr("grpcurl -cacert CA.pem -cert C.pem -key C.key"));
  EXPECT_THAT(text, HasSubstr("--tls-ca CA.pem --tls-cert C.pem --tls-key C.key"));
}

TEST(ServingHintsTest, LeavesOutWhatWouldNotWork) {
  ServerOptions options = Options();
  options.reflection = false;
  const std::string text = ServingHints(options, {1, 0, 0}, HintContext{"nibble"});
  EXPECT_THAT(text, Not(HasSubstr("grpcurl")));
  EXPECT_THAT(text, Not(HasSubstr("/metrics")));
  EXPECT_THAT(text, HasSubstr("nibble generate --server"));
}

}  // namespace
}  // namespace nibble
