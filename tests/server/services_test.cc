// TokenizerService, ModelService, AdminService and reflection.
#include <grpcpp/generic/generic_stub.h>
#include <unistd.h>

#include "tests/engine/evaluation_record.h"
#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

using Behaviour = FakeEngine::Behaviour;

TEST_F(ServerTest, TokenizeAndDetokenizeAreInverse) {
  StartServing();
  auto stub = v1::TokenizerService::NewStub(channel_);
  v1::TokenizeRequest request;
  request.set_text("h\xc3\xa9llo </s>");
  request.set_add_special(true);
  v1::TokenizeResponse tokens;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Tokenize(&context, request, &tokens).ok());
  }
  EXPECT_EQ(tokens.token_ids(0), FakeTokenizer::kBos);
  EXPECT_EQ(tokens.token_ids_size(), 1 + static_cast<int>(request.text().size()))
      << "</s> is only characters";
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Detokenize(&context, back, &text).ok());
  }
  EXPECT_EQ(text.text(), request.text());
  back.set_with_special(true);
  grpc::ClientContext context;
  ASSERT_TRUE(stub->Detokenize(&context, back, &text).ok());
  EXPECT_EQ(text.text(), "<s>" + request.text());
}

TEST_F(ServerTest, SpecialTokensAreParsedOnlyWhenAskedFor) {
  StartServing();
  auto stub = v1::TokenizerService::NewStub(channel_);
  v1::TokenizeRequest request;
  request.set_text("</s>");
  request.set_parse_special(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(stub->Tokenize(&context, request, &tokens).ok());
  ASSERT_EQ(tokens.token_ids_size(), 1);
  EXPECT_EQ(tokens.token_ids(0), FakeTokenizer::kEos);
}

TEST_F(ServerTest, DetokenizeNamesTheIdThatIsNone) {
  StartServing();
  auto stub = v1::TokenizerService::NewStub(channel_);
  for (const int32_t bad : {-1, FakeTokenizer::kVocabSize}) {
    v1::DetokenizeRequest request;
    request.add_token_ids(1);
    request.add_token_ids(bad);
    v1::DetokenizeResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub->Detokenize(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(),
              "token_ids[1]");
  }
}

TEST_F(ServerTest, ATextTooLongToTokenizeOnTheSpotIsRefused) {
  StartServing();
  v1::TokenizeRequest request;
  request.set_text(std::string((4 << 20) + 1, 'x'));
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  const grpc::Status status =
      v1::TokenizerService::NewStub(channel_)->Tokenize(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(), "text");
}

// Its answer is in memory until somebody takes it: so many, and so many bytes, and no more.
TEST_F(ServerTest, TokenizerAnswersThatNobodyReadsAreBoundedAndCutOff) {
  options_.limits.max_open_requests = 1;
  StartServing();
  v1::TokenizeRequest large;
  large.set_text(std::string(1 << 20, 'x'));
  UnreadCall<v1::TokenizeResponse> unread(
      Connect(grpc::InsecureChannelCredentials(), SmallWindow()));
  auto unread_stub = v1::TokenizerService::NewStub(unread.channel());
  unread.Start(unread_stub->PrepareAsyncTokenize(unread.context(), large, unread.queue()));

  auto stub = v1::TokenizerService::NewStub(channel_);
  const auto tokenize = [&] {
    v1::TokenizeRequest request;
    request.set_text("x");
    v1::TokenizeResponse response;
    grpc::ClientContext context;
    return stub->Tokenize(&context, request, &response);
  };
  Eventually(
      [&] {
        return Sample(Scrape(),
                      "nibble_grpc_server_handling_seconds_count{model=\"m\",code=\"OK\",rpc=\""
                      "/nibble.v1.TokenizerService/Tokenize\"}") == 1;
      },
      "the answer");
  const grpc::Status refused = tokenize();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(refused)->violations(0).subject(), "open_requests");
  v1::GenerateResponse response;
  grpc::ClientContext context;
  EXPECT_TRUE(generation_->Generate(&context, TextRequest("x", 1), &response).ok())
      << "generation has places of its own";
  Eventually(
      [&] {
        clock_.Advance(std::chrono::seconds(10));
        return tokenize().ok();
      },
      "the cut");
  EXPECT_EQ(unread.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, ApplyChatTemplateShowsTextAndTokens) {
  StartServing();
  v1::ApplyChatTemplateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  v1::ApplyChatTemplateResponse response;
  auto stub = v1::TokenizerService::NewStub(channel_);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->ApplyChatTemplate(&context, request, &response).ok());
  }
  EXPECT_NE(response.text().find("<|user|>hi<|end|>"), std::string::npos);
  EXPECT_GT(response.token_ids_size(), 3);
  request.clear_chat();
  grpc::ClientContext context;
  const grpc::Status status = stub->ApplyChatTemplate(&context, request, &response);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(),
            "chat.messages");
}

TEST_F(ServerTest, GetModelTellsTheModelAndItsLimits) {
  StartServer();
  auto stub = v1::ModelService::NewStub(channel_);
  v1::GetModelResponse response;
  {
    grpc::ClientContext context;
    EXPECT_EQ(stub->GetModel(&context, {}, &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  ServeFake({.max_context = 512});
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->GetModel(&context, {}, &response).ok());
  }
  EXPECT_EQ(response.model(), "m");
  EXPECT_FALSE(response.has_quantization());
  EXPECT_EQ(response.architecture(), "llama");
  EXPECT_EQ(response.max_context_tokens(), 512);
  EXPECT_EQ(response.vocab_size(), FakeTokenizer::kVocabSize);
  EXPECT_EQ(response.bos_token_id(), FakeTokenizer::kBos);
  EXPECT_EQ(response.end_of_generation_token_ids_size(), 2);
  v1::GetModelRequest other;
  other.set_model("other");
  grpc::ClientContext context;
  EXPECT_EQ(stub->GetModel(&context, other, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, GetModelTellsHowTheWeightsWereQuantized) {
  QuantizeProvenance quantized;
  quantized.method = "ggml";
  quantized.type = "q4_k_m";
  quantized.options = "\xff";  // not UTF-8: a proto would not take it
  quantized.tool = "nibble 0.1.0";
  quantized.source_sha256 = "5ce";
  quantized.calibration_sha256 = "ca1";
  quantized.tensor_errors = {{"blk.0.attn_q.weight", 0.25f}};
  quantized.evaluation = testing::ExampleEvaluation();
  model_.quantized = quantized;
  StartServing();
  v1::GetModelResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::ModelService::NewStub(channel_)->GetModel(&context, {}, &response).ok());
  const v1::Quantization& told = response.quantization();
  EXPECT_EQ(told.method(), "ggml");
  EXPECT_EQ(told.type(), "q4_k_m");
  EXPECT_EQ(told.options(), "\"\\xff\"");
  EXPECT_EQ(told.tool(), "nibble 0.1.0");
  EXPECT_EQ(told.source_sha256(), "5ce");
  EXPECT_EQ(told.importance_sha256(), "");
  EXPECT_EQ(told.calibration_sha256(), "ca1");
  ASSERT_EQ(told.tensor_errors_size(), 1);
  EXPECT_EQ(told.tensor_errors(0).tensor(), "blk.0.attn_q.weight");
  EXPECT_EQ(told.tensor_errors(0).relative_error(), 0.25);
  EXPECT_EQ(told.quality().kl_nats(), 0.0069);
  EXPECT_EQ(told.quality().perplexity(), 37.315);
  EXPECT_EQ(told.quality().tokens(), 33726);
}

TEST_F(ServerTest, GetLoadCountsOpenRequests) {
  options_.limits.max_open_requests = 9;
  StartServing({.behaviour = Behaviour::kHoldPrefill});
  grpc::ClientContext held;
  auto reader = generation_->GenerateStream(&held, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().running == 1; }, "the request");
  v1::GetLoadResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::ModelService::NewStub(channel_)->GetLoad(&context, {}, &response).ok());
  EXPECT_EQ(response.open_requests(), 1);
  EXPECT_EQ(response.max_open_requests(), 9);
  EXPECT_EQ(response.running(), 1);
  EXPECT_FALSE(response.draining());
  held.TryCancel();
  reader->Finish();
}

class AdminTest : public ServerTest {
 protected:
  AdminTest() { options_.admin_listen = options_.listen; }
  std::unique_ptr<v1::AdminService::Stub> Admin() {
    const std::string address = "127.0.0.1:" + std::to_string(server_->ports().admin);
    return v1::AdminService::NewStub(
        Opened(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())));
  }
};

TEST_F(AdminTest, IsNotOnThePublicPort) {
  StartServing();
  grpc::ClientContext context;
  v1::DrainResponse response;
  EXPECT_EQ(v1::AdminService::NewStub(channel_)->Drain(&context, {}, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(AdminTest, DoesNotServeGeneration) {
  StartServing();
  const std::string address = "127.0.0.1:" + std::to_string(server_->ports().admin);
  auto stub = v1::GenerationService::NewStub(
      Opened(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())));
  grpc::ClientContext context;
  v1::GenerateResponse response;
  EXPECT_EQ(stub->Generate(&context, TextRequest("x", 1), &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(AdminTest, DrainEndsTheServer) {
  StartServing();
  grpc::ClientContext context;
  v1::DrainResponse response;
  ASSERT_TRUE(Admin()->Drain(&context, {}, &response).ok());
  EXPECT_EQ(response.drain_timeout_seconds(), 20);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
}

// However many connections clients hold, an operator gets in.
TEST_F(AdminTest, BusyClientsDoNotKeepOperatorsOut) {
  options_.limits.max_connections = 2;
  StartServing();
  std::vector<int> clients;
  for (int i = 0; i < 40; ++i) clients.push_back(ConnectRaw(server_->ports().grpc));
  grpc::ClientContext context;
  v1::DrainResponse response;
  EXPECT_TRUE(Admin()->Drain(&context, {}, &response).ok());
  EXPECT_NE(Scrape(), "");
  for (const int fd : clients) close(fd);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
}

TEST_F(AdminTest, SetLogLevelChangesWhatIsLogged) {
  StartServing();
  auto admin = Admin();
  v1::SetLogLevelRequest request;
  request.set_level(v1::LOG_LEVEL_ERROR);
  v1::SetLogLevelResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(admin->SetLogLevel(&context, request, &response).ok());
  }
  EXPECT_EQ(response.previous(), v1::LOG_LEVEL_DEBUG);
  const size_t before = LogLines().size();
  grpc::ClientContext generate;
  v1::GenerateResponse ignored;
  ASSERT_TRUE(generation_->Generate(&generate, TextRequest("x", 1), &ignored).ok());
  EXPECT_EQ(LogLines().size(), before);
  request.set_level(v1::LOG_LEVEL_UNSPECIFIED);
  grpc::ClientContext context;
  EXPECT_EQ(admin->SetLogLevel(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(AdminTest, DumpStateShowsTheEnginesLines) {
  StartServing();
  grpc::ClientContext context;
  v1::DumpStateResponse response;
  ASSERT_TRUE(Admin()->DumpState(&context, {}, &response).ok());
  EXPECT_EQ(response.state(), "fake engine\n");
}

// Asks the way grpcurl does; there is no generated client for it here.
grpc::Status AskReflection(const std::shared_ptr<grpc::Channel>& channel, std::string* reply_text) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  const auto next = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  next();
  const std::string list_services = "\x3a\x01*";  // field 7, "*"
  grpc::Slice slice(list_services);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  next();
  grpc::ByteBuffer reply;
  call->Read(&reply, nullptr);
  if (next()) {
    std::vector<grpc::Slice> slices;
    if (reply.Dump(&slices).ok()) {
      for (const grpc::Slice& part : slices) {
        reply_text->append(reinterpret_cast<const char*>(part.begin()), part.size());
      }
    }
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  return status;
}

TEST_F(ServerTest, ReflectionListsThePublicServices) {
  StartServing();
  std::string reply;
  EXPECT_TRUE(AskReflection(channel_, &reply).ok());
  for (const char* service : {"nibble.v1.GenerationService", "nibble.v1.TokenizerService",
                              "nibble.v1.ModelService", "grpc.health.v1.Health"}) {
    EXPECT_NE(reply.find(service), std::string::npos) << service;
  }
  EXPECT_EQ(reply.find("AdminService"), std::string::npos);
}

TEST_F(ServerTest, ReflectionCanBeTurnedOff) {
  options_.reflection = false;
  StartServing();
  std::string reply;
  EXPECT_EQ(AskReflection(channel_, &reply).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace nibble
