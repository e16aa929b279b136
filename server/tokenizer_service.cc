#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"
#include "nibble/v1/tokenizer.grpc.pb.h"
#include "server/convert.h"
#include "server/finish_unary.h"
#include "server/refusal.h"
#include "server/services.h"

namespace nibble {
namespace {

// Tokenizing runs on the thread that read the call, and there are few of those.
constexpr size_t kMaxTextBytes = 4 << 20;
constexpr int kMaxTokenIds = 1 << 20;

absl::Status CheckSize(absl::string_view field, size_t bytes) {
  if (bytes <= kMaxTextBytes) return absl::OkStatus();
  return FieldError(field, absl::StrCat("has ", bytes, " bytes, needs at most ", kMaxTextBytes));
}

void SetIds(const std::vector<int32_t>& ids, google::protobuf::RepeatedField<int32_t>* out) {
  out->Assign(ids.begin(), ids.end());
}

absl::Status Tokenize(const Tokenizer& tokenizer, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) {
  NIBBLE_RETURN_IF_ERROR(CheckSize("text", request.text().size()));
  NIBBLE_ASSIGN_OR_RETURN(
      std::vector<int32_t> ids,
      tokenizer.Encode(request.text(), {.parse_special = request.parse_special(),
                                        .add_special = request.add_special()}));
  SetIds(ids, response->mutable_token_ids());
  return absl::OkStatus();
}

absl::Status Detokenize(const Tokenizer& tokenizer, const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse* response) {
  if (request.token_ids_size() > kMaxTokenIds) {
    return FieldError("token_ids", absl::StrCat("has ", request.token_ids_size(),
                                                " ids, needs at most ", kMaxTokenIds));
  }
  for (int i = 0; i < request.token_ids_size(); ++i) {
    const int32_t id = request.token_ids(i);
    if (id < 0 || id >= tokenizer.vocab_size()) {
      return FieldError(absl::StrCat("token_ids[", i, "]"),
                        absl::StrCat("is ", id, ", needs 0 to ", tokenizer.vocab_size() - 1));
    }
  }
  const absl::Span<const int32_t> ids(request.token_ids().data(), request.token_ids_size());
  NIBBLE_ASSIGN_OR_RETURN(*response->mutable_text(), tokenizer.Decode(ids, request.with_special()));
  return absl::OkStatus();
}

// What the template says is wrong is wrong with the messages.
absl::StatusOr<RenderedChat> RenderFor(const ChatTemplate& chat_template,
                                       const std::vector<ChatMessage>& messages,
                                       bool add_generation_prompt,
                                       const std::vector<std::string>& special_tokens) {
  auto rendered = chat_template.Apply(messages, add_generation_prompt, special_tokens);
  if (absl::IsInvalidArgument(rendered.status()) || absl::IsResourceExhausted(rendered.status())) {
    return FieldError("chat", rendered.status().message());
  }
  return rendered;
}

absl::Status ApplyTemplate(const ServingState::Serving& serving,
                           const v1::ApplyChatTemplateRequest& request,
                           v1::ApplyChatTemplateResponse* response) {
  const ChatTemplate* chat_template = serving.engine->chat_template();
  if (chat_template == nullptr) {
    return FieldError(
        "chat", "cannot be rendered: the model file has no chat template; use text or token_ids");
  }
  NIBBLE_RETURN_IF_ERROR(CheckSize("chat", request.chat().ByteSizeLong()));
  NIBBLE_ASSIGN_OR_RETURN(std::vector<ChatMessage> messages, ToEngine(request.chat()));
  const Tokenizer& tokenizer = serving.engine->tokenizer();
  const bool add_prompt = !request.has_add_generation_prompt() || request.add_generation_prompt();
  NIBBLE_ASSIGN_OR_RETURN(RenderedChat rendered,
                          RenderFor(*chat_template, messages, add_prompt, *serving.special_tokens));
  NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          tokenizer.EncodeRendered(rendered.text, rendered.guard));
  SetIds(ids, response->mutable_token_ids());
  response->set_text(rendered.guard.empty()
                         ? std::move(rendered.text)
                         : absl::StrReplaceAll(rendered.text, {{rendered.guard, ""}}));
  return absl::OkStatus();
}

class TokenizerService final : public v1::TokenizerService::CallbackService {
 public:
  explicit TokenizerService(ServerParts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Answer(context, *request, response, [&](const ServingState::Serving& serving) {
      return nibble::Tokenize(serving.engine->tokenizer(), *request, response);
    });
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Answer(context, *request, response, [&](const ServingState::Serving& serving) {
      return nibble::Detokenize(serving.engine->tokenizer(), *request, response);
    });
  }
  grpc::ServerUnaryReactor* ApplyChatTemplate(grpc::CallbackServerContext* context,
                                              const v1::ApplyChatTemplateRequest* request,
                                              v1::ApplyChatTemplateResponse* response) override {
    return Answer(context, *request, response, [&](const ServingState::Serving& serving) {
      return ApplyTemplate(serving, *request, response);
    });
  }

 private:
  // What the call holds, the request and then the answer too, is counted until the client took it.
  template <typename Request, typename Response, typename Body>
  absl::Status Admitted(const Request& request, Response* response, Admission::Ticket* ticket,
                        Body body) {
    NIBBLE_ASSIGN_OR_RETURN(
        const ServingState::Serving serving,
        parts_.state.ForReading(request.has_model() ? &request.model() : nullptr));
    const auto request_bytes = static_cast<int64_t>(request.ByteSizeLong());
    NIBBLE_ASSIGN_OR_RETURN(*ticket, parts_.tokenizer_admission.Admit(0, request_bytes));
    NIBBLE_RETURN_IF_ERROR(body(serving));
    const auto answer_bytes = static_cast<int64_t>(response->SpaceUsedLong());
    const absl::Status room = ticket->SetBytes(request_bytes + answer_bytes);
    if (!room.ok()) Response().Swap(response);
    return room;
  }
  template <typename Request, typename Response, typename Body>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const Request& request,
                                   Response* response, Body body) {
    Admission::Ticket ticket;
    const absl::Status status = Admitted(request, response, &ticket, body);
    const std::string quota = PayloadOf(status, kQuotaPayload);
    if (!quota.empty()) parts_.metrics.RequestRefused(quota);
    return FinishUnary(context, parts_, status, std::move(ticket));
  }

  ServerParts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateTokenizerService(ServerParts& parts) {
  return std::make_unique<TokenizerService>(parts);
}

}  // namespace nibble
