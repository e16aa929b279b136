#include "cli/remote.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <sstream>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/cli/fake_service.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

class RemoteTest : public ::testing::Test {
 protected:
  v1::GenerateStreamResponse& Event() { return service_.events.emplace_back(); }

  Outcome Run(const GenerateRequest& request, std::optional<Duration> timeout = std::nullopt) {
    RemoteFlags flags;
    flags.server = service_.address;
    RemoteCall call(*Connect(flags), request, timeout);
    ResponseParams response = request.response;
    GenerationWriter writer(io_, OutputFormat::kJson, response);
    const Outcome outcome = call.Run(writer);
    exit_code_ = writer.OnFinished(outcome, false);
    return outcome;
  }
  static GenerateRequest Text(std::string text) {
    GenerateRequest request;
    request.prompt = TextPrompt{std::move(text)};
    return request;
  }

  FakeService service_;
  std::istringstream in_;
  std::ostringstream out_, err_;
  Io io_{in_, out_, err_};
  int exit_code_ = -1;
};

TEST_F(RemoteTest, AStreamBecomesTheSameJsonAsALocalRun) {
  Event().mutable_started()->mutable_effective()->mutable_sampling()->set_seed(77);
  v1::Delta* delta = Event().mutable_delta();
  delta->set_text("Pa");
  delta->add_token_ids(5);
  v1::TokenLogprob* logprob = delta->add_logprobs();
  logprob->set_token_id(5);
  logprob->set_logprob(-0.5f);
  delta->add_prompt_logprobs()->set_token_id(4);
  Event().mutable_delta()->set_text("ris");
  v1::Finished* finished = Event().mutable_finished();
  finished->set_finish_reason(v1::FINISH_REASON_STOP_SEQUENCE);
  finished->set_matched_stop("\n");
  finished->mutable_usage()->set_prompt_tokens(9);
  finished->mutable_timings()->set_queue_seconds(0.25);
  GenerateRequest request = Text("q");
  request.response.logprobs = 0;
  request.response.prompt_logprobs = 0;
  EXPECT_TRUE(Run(request).status.ok());
  EXPECT_EQ(exit_code_, kExitOk);
  const nlohmann::json json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["text"], "Paris");
  EXPECT_EQ(json["token_ids"], nlohmann::json({5}));
  EXPECT_EQ(json["finish_reason"], "stop_sequence");
  EXPECT_EQ(json["matched_stop"], "\n");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 9);
  EXPECT_DOUBLE_EQ(json["timings"]["queue_ms"].get<double>(), 250);
  EXPECT_EQ(json["seed"], 77);
  EXPECT_EQ(json["logprobs"][0]["logprob"], -0.5);
  ASSERT_EQ(json["prompt_logprobs"].size(), 2u);
  EXPECT_TRUE(json["prompt_logprobs"][0].is_null()) << "the first position has no past";
  EXPECT_EQ(json["prompt_logprobs"][1]["token_id"], 4);
}

TEST_F(RemoteTest, TheRequestGoesOverWhole) {
  Event().mutable_finished()->set_finish_reason(v1::FINISH_REASON_EOS);
  GenerateRequest request;
  request.prompt = ChatPrompt{{{"system", "brief"}, {"user", "hi"}}};
  request.sampling.temperature = 0;
  request.sampling.seed = 3;
  request.sampling.logit_bias = {{7, -100.0f}};
  request.stopping.max_tokens = 0;
  request.stopping.stop = {"a", "b"};
  request.priority = -3;
  request.cache_salt = "s";
  request.time_limit = std::chrono::milliseconds(1500);
  Run(request, std::chrono::seconds(60));
  const v1::GenerateStreamRequest& seen = service_.seen;
  EXPECT_EQ(seen.chat().messages(1).content(), "hi");
  EXPECT_TRUE(seen.sampling().has_temperature());
  EXPECT_EQ(seen.sampling().temperature(), 0);
  EXPECT_EQ(seen.sampling().seed(), 3u);
  EXPECT_EQ(seen.sampling().logit_bias().at(7), -100);
  EXPECT_TRUE(seen.stopping().has_max_tokens());
  EXPECT_EQ(seen.stopping().max_tokens(), 0);
  EXPECT_EQ(seen.stopping().stop_size(), 2);
  EXPECT_FALSE(seen.response().has_logprobs());
  EXPECT_EQ(seen.priority(), -3);
  EXPECT_EQ(seen.cache_salt(), "s");
  EXPECT_DOUBLE_EQ(seen.time_limit_seconds(), 1.5);
  EXPECT_TRUE(service_.deadline_set);
}

TEST_F(RemoteTest, WithoutATimeoutThereIsNoDeadline) {
  Event().mutable_finished();
  Run(Text("a"));
  EXPECT_FALSE(service_.deadline_set);
}

TEST_F(RemoteTest, AnErrorShowsWhatItsDetailsSay) {
  google::rpc::Status rich;
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("sampling.top_p");
  rich.add_details()->PackFrom(bad);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(250000000);
  rich.add_details()->PackFrom(retry);
  google::rpc::ErrorInfo info;
  (*info.mutable_metadata())["stage"] = "queued";
  rich.add_details()->PackFrom(info);
  service_.status =
      grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "found 1.4", rich.SerializeAsString());
  EXPECT_EQ(Run(Text("a")).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(exit_code_, kExitUsage);
  EXPECT_THAT(err_.str(), HasSubstr("found 1.4 (field sampling.top_p) (try again in 0.25 s) "
                                    "(stage queued)"));
}

TEST_F(RemoteTest, DetailsThatAreNoProtoAreLeftOut) {
  service_.status = grpc::Status(grpc::StatusCode::INTERNAL, "boom", "\xff\xff garbage");
  EXPECT_EQ(Run(Text("a")).status.message(), "boom");
}

TEST_F(RemoteTest, AStreamWithoutItsLastEventIsAnError) {
  Event().mutable_delta()->set_text("half a th");
  EXPECT_EQ(Run(Text("a")).status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(exit_code_, kExitFailure);
}

TEST_F(RemoteTest, CancelEndsACallThatIsRunning) {
  std::promise<void> running;
  service_.before_end = [&running](grpc::ServerContext* context) {
    running.set_value();
    while (!context->IsCancelled()) std::this_thread::yield();
  };
  RemoteFlags flags;
  flags.server = service_.address;
  RemoteCall call(*Connect(flags), Text("a"), std::nullopt);
  GenerationWriter writer(io_, OutputFormat::kText, {});
  auto outcome = std::async(std::launch::async, [&] { return call.Run(writer); });
  running.get_future().wait();
  call.Cancel();
  EXPECT_EQ(outcome.get().status.code(), absl::StatusCode::kCancelled);
}

TEST(ConnectTest, TlsFlagsMustFitTogetherAndBeReadable) {
  RemoteFlags flags;
  flags.server = "127.0.0.1:1";
  flags.tls_cert = "c.pem";
  EXPECT_EQ(Connect(flags).status().code(), absl::StatusCode::kInvalidArgument);
  flags.tls_key = "k.pem";
  EXPECT_THAT(std::string(Connect(flags).status().message()), HasSubstr("--tls-ca"));
  flags.tls_ca = "no/such/ca.pem";
  EXPECT_EQ(Connect(flags).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Connect(flags).status().message()), HasSubstr("no/such/ca.pem"));
}

}  // namespace
}  // namespace nibble
