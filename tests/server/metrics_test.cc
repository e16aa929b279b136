#include "server/metrics.h"

#include <grpcpp/generic/generic_stub.h>

#include <cstdio>
#include <fstream>

#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

using Behaviour = FakeEngine::Behaviour;

// The names are a contract with dashboards, alerts and routers.
TEST_F(ServerTest, EveryMetricOfTheContractIsThere) {
  StartServing();
  server_->ReportStartupPhase("weights", std::chrono::milliseconds(1500));
  grpc::ClientContext context;
  v1::GenerateResponse response;
  ASSERT_TRUE(generation_->Generate(&context, TextRequest("abc", 4), &response).ok());
  Eventually([&] { return SumOf(Scrape(), "nibble_decode_time_seconds_count") > 0; },
             "the observer");
  const std::string scrape = Scrape();
  for (const char* name : {"requests_running",
                           "requests_waiting",
                           "kv_cache_usage_ratio",
                           "cache_config_info",
                           "time_to_first_token_seconds",
                           "inter_token_latency_seconds",
                           "time_per_output_token_seconds",
                           "request_duration_seconds",
                           "queue_time_seconds",
                           "prefill_time_seconds",
                           "decode_time_seconds",
                           "engine_step_seconds",
                           "prompt_tokens_total",
                           "generation_tokens_total",
                           "cached_prompt_tokens_total",
                           "recomputed_tokens_total",
                           "batch_tokens",
                           "batch_sequences",
                           "requests_started_total",
                           "requests_finished_total",
                           "admission_rejections_total",
                           "preemptions_total",
                           "grpc_server_handling_seconds",
                           "engine_steps_total",
                           "engine_last_step_timestamp_seconds",
                           "startup_phase_seconds",
                           "weights_bytes",
                           "kv_cache_bytes",
                           "build_info"}) {
    EXPECT_NE(scrape.find(std::string("# TYPE nibble_") + name + " "), std::string::npos) << name;
  }
  EXPECT_EQ(Sample(scrape, "nibble_weights_bytes{model=\"m\"}"), 123);
  EXPECT_EQ(Sample(scrape, "nibble_startup_phase_seconds{model=\"m\",phase=\"weights\"}"), 1.5);
  EXPECT_EQ(SumOf(scrape, "nibble_time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(SumOf(scrape, "nibble_inter_token_latency_seconds_count"), 3);
  EXPECT_NE(scrape.find("le=\"0.0005\""), std::string::npos)
      << "a quantized model's token takes milliseconds";
  EXPECT_NE(
      scrape.find("nibble_cache_config_info{model=\"m\",block_size=\"16\",num_blocks=\"128\"} 1"),
      std::string::npos);
}

TEST_F(ServerTest, PromtoolFindsNothingToSay) {
  if (std::system("command -v promtool > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "no promtool on the PATH: .ci/promtool brings it into .tools/bin";
  StartServing();
  server_->ReportStartupPhase("weights", std::chrono::milliseconds(1500));
  grpc::ClientContext context;
  v1::GenerateResponse response;
  ASSERT_TRUE(generation_->Generate(&context, TextRequest("abc", 4), &response).ok());
  grpc::ClientContext bad;
  generation_->Generate(&bad, {}, &response);
  const std::string path = ::testing::TempDir() + "/nibble_metrics_" + std::to_string(getpid());
  std::ofstream(path) << Scrape();
  EXPECT_EQ(std::system(("promtool check metrics < " + path).c_str()), 0);
  std::remove(path.c_str());
}

TEST_F(ServerTest, StartedIsTheSumOfFinishedWhateverHappened) {
  options_.limits.max_open_requests = 3;
  StartServing({.behaviour = Behaviour::kEndless});
  v1::GenerateResponse response;
  for (int i = 0; i < 3; ++i) {  // invalid
    grpc::ClientContext context;
    generation_->Generate(&context, {}, &response);
  }
  grpc::ClientContext contexts[3];
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> readers[3];
  for (int i = 0; i < 3; ++i) {
    readers[i] = generation_->GenerateStream(&contexts[i], TextStreamRequest("x", 1));
    v1::GenerateStreamResponse event;
    ASSERT_TRUE(readers[i]->Read(&event));
  }
  {  // full
    grpc::ClientContext context;
    generation_->Generate(&context, TextRequest("x", 1), &response);
  }
  EXPECT_EQ(SumOf(Scrape(), "nibble_requests_started_total"), 7);
  // The client may have its answer before the server has counted the end of the call.
  Eventually([&] { return SumOf(Scrape(), "nibble_requests_finished_total") == 4; },
             "the refused calls to be counted");
  for (int i = 0; i < 3; ++i) {
    contexts[i].TryCancel();
    readers[i]->Finish();
  }
  Eventually([&] { return SumOf(Scrape(), "nibble_requests_finished_total") == 7; },
             "the sums to agree");
  const std::string scrape = Scrape();
  EXPECT_EQ(
      Sample(scrape,
             "nibble_requests_finished_total{model=\"m\",code=\"CANCELLED\",reason=\"cancelled\"}"),
      3);
  EXPECT_EQ(Sample(scrape,
                   "nibble_requests_finished_total{model=\"m\",code=\"RESOURCE_EXHAUSTED\","
                   "reason=\"queue_full\"}"),
            1);
  EXPECT_EQ(SumOf(scrape, "nibble_request_duration_seconds_count"), 7);
}

TEST_F(ServerTest, CallsOfEveryServiceAreTimed) {
  StartServing();
  HealthOf("");
  {
    grpc::ClientContext context;
    v1::GetLoadResponse load;
    v1::ModelService::NewStub(channel_)->GetLoad(&context, {}, &load);
  }
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  reader->Finish();
  for (const char* rpc : {"/grpc.health.v1.Health/Check", "/nibble.v1.ModelService/GetLoad",
                          "/nibble.v1.GenerationService/GenerateStream"}) {
    EXPECT_GE(
        Sample(Scrape(),
               std::string(
                   "nibble_grpc_server_handling_seconds_count{model=\"m\",code=\"OK\",rpc=\"") +
                   rpc + "\"}"),
        1)
        << rpc;
  }
}

// A label for each would let any client fill the memory of the server and of Prometheus.
TEST_F(ServerTest, CallsToMadeUpMethodsShareOneLabel) {
  StartServing();
  for (const char* method :
       {"/nibble.v1.GenerationService/Nonsense", "/a/b", "/nibble.v1.AdminService/Drain"}) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(), &queue);
    call->StartCall();
    grpc::ByteBuffer reply;
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
  const std::string scrape = Scrape();
  for (const char* name : {"Nonsense", "/a/b", "AdminService"})
    EXPECT_EQ(scrape.find(name), std::string::npos);
  EXPECT_EQ(Sample(scrape,
                   "nibble_grpc_server_handling_seconds_count{model=\"m\",code=\"UNIMPLEMENTED\","
                   "rpc=\"unknown\"}"),
            3);
}

TEST_F(ServerTest, TheAliasShowsTheGaugesUnderTheirOtherNames) {
  options_.metrics_alias = "vllm";
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return Sample(Scrape(), "vllm:num_requests_running{model_name=\"m\"}") == 1; },
             "one running");
  const std::string scrape = Scrape();
  EXPECT_EQ(Sample(scrape, "nibble_requests_running{model=\"m\"}"), 1);
  EXPECT_EQ(Sample(scrape, "vllm:num_requests_waiting{model_name=\"m\"}"), 0);
  EXPECT_GT(Sample(scrape, "vllm:kv_cache_usage_perc{model_name=\"m\"}"), 0);
  EXPECT_NE(scrape.find("num_gpu_blocks=\"128\""), std::string::npos);
  context.TryCancel();
  reader->Finish();
}

TEST_F(ServerTest, WithoutTheAliasThereIsNone) {
  StartServing();
  EXPECT_EQ(Scrape().find("vllm:"), std::string::npos);
}

TEST_F(ServerTest, MetricsAreThereWhileLoadingAndOffWhenNotWanted) {
  StartServer();
  EXPECT_EQ(Sample(Scrape(), "nibble_requests_waiting{model=\"m\"}"), 0);
  server_.reset();
  options_.metrics_listen.clear();
  StartServer();
  EXPECT_EQ(server_->ports().metrics, 0);
}

}  // namespace
}  // namespace nibble
