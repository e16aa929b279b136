#include "cli/inspect_remote.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/cli/fake_service.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

class InspectRemoteTest : public ::testing::Test {
 protected:
  InspectRemoteTest() {
    service_.model.set_model("tiny");
    service_.model.set_architecture("llama");
    service_.model.set_weights_format("Q4_K");
    service_.model.set_max_context_tokens(512);
    service_.model.set_trained_context_tokens(2048);
  }
  int Ask(OutputFormat output) {
    RemoteFlags flags;
    flags.server = service_.address;
    return RunInspectRemote(flags, output, Io{in_, out_, err_});
  }
  FakeService service_;
  std::istringstream in_;
  std::ostringstream out_, err_;
};

TEST_F(InspectRemoteTest, TellsTheModelThatIsServed) {
  EXPECT_EQ(Ask(OutputFormat::kText), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("tiny"));
  EXPECT_THAT(out_.str(), HasSubstr("512 tokens, trained for 2048"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("quantized")));
}

TEST_F(InspectRemoteTest, TellsHowItWasQuantizedAndHowGoodItIs) {
  v1::Quantization& quantization = *service_.model.mutable_quantization();
  quantization.set_method("ggml");
  quantization.set_type("q4_k_m");
  v1::TensorError& error = *quantization.add_tensor_errors();
  error.set_tensor("blk.0.attn_q.weight");
  error.set_relative_error(0.25);
  quantization.mutable_quality()->set_kl_nats(0.0069);
  quantization.mutable_quality()->set_tokens(33726);
  EXPECT_EQ(Ask(OutputFormat::kText), kExitOk);
  EXPECT_THAT(out_.str(), HasSubstr("q4_k_m (ggml)"));
  EXPECT_THAT(out_.str(), HasSubstr("KL from its source 0.006900"));
  out_.str("");
  EXPECT_EQ(Ask(OutputFormat::kJson), kExitOk);
  const Json json = Json::parse(out_.str());
  EXPECT_EQ(json["weights_format"], "Q4_K");
  EXPECT_EQ(json["quantized"]["tensor_errors"]["blk.0.attn_q.weight"], 0.25);
  EXPECT_EQ(json["quantized"]["evaluation"]["tokens"], 33726);
}

TEST(RunInspectRemoteTest, NoServerIsAFailure) {
  std::istringstream in;
  std::ostringstream out, err;
  RemoteFlags flags;
  flags.server = "127.0.0.1:1";  // nothing can listen there without being root
  EXPECT_EQ(RunInspectRemote(flags, OutputFormat::kText, Io{in, out, err}), kExitFailure);
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace nibble
