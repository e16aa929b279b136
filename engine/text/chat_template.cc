#include "engine/text/chat_template.h"

#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/bridge_call.h"
#include "engine/text/guard.h"

namespace nibble {
namespace {

struct FreeTemplate {
  void operator()(nibble_template* chat_template) const { nibble_template_free(chat_template); }
};
using BridgeTemplate = std::unique_ptr<nibble_template, FreeTemplate>;

int64_t SystemSeconds() {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count();
}

struct Rendering {
  absl::Status status;
  std::string text;
  bool raised = false;  // the template's own objection
};

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(absl::string_view source, ChatTemplateOptions options, BridgeTemplate bridge)
      : source_(source), options_(std::move(options)), bridge_(std::move(bridge)) {}

  absl::StatusOr<RenderedChat> Apply(absl::Span<const ChatMessage> messages,
                                     bool add_generation_prompt,
                                     absl::Span<const std::string> special_tokens) const override {
    if (messages.size() > kMaxChatMessages) {
      return absl::ResourceExhaustedError(absl::StrCat("messages: ", messages.size(), ", at most ",
                                                       kMaxChatMessages, " are taken"));
    }
    NIBBLE_ASSIGN_OR_RETURN(std::string character, ChooseGuard(messages, special_tokens, source_));
    const Guard guard(character, special_tokens);
    std::vector<ChatMessage> guarded;
    for (const ChatMessage& message : messages) {
      guarded.push_back({guard.Role(message.role), guard.Content(message.content)});
    }
    Rendering rendering = Render(guarded, add_generation_prompt);
    NIBBLE_RETURN_IF_ERROR(rendering.status);
    if (!absl::StrContains(rendering.text, character)) character.clear();
    return RenderedChat{std::move(rendering.text), std::move(character)};
  }

  absl::string_view source() const override { return source_; }

  // Renders the shapes of conversation that requests have. What only tools reach stays untried:
  // requests have none.
  absl::Status Try() const {
    const ChatMessage system = {"system", "s"}, user = {"user", "u"},
                      assistant = {"assistant", "a"};
    const std::vector<ChatMessage> trials[] = {{user},
                                               {system, user},
                                               {user, assistant, user},
                                               {system, user, assistant, user, assistant}};
    bool any_rendered = false;
    absl::Status refusal;
    for (const std::vector<ChatMessage>& messages : trials) {
      const Rendering rendering = Render(messages, messages.back().role == "user");
      any_rendered = any_rendered || rendering.status.ok() || rendering.raised;
      if (rendering.raised) continue;
      if (!rendering.status.ok() && !absl::IsInvalidArgument(rendering.status))
        return rendering.status;
      refusal.Update(rendering.status);
    }
    if (any_rendered) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat(refusal.message(), "; no conversation of the usual roles renders"));
  }

 private:
  Rendering Render(absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
    std::vector<nibble_message> borrowed;
    for (const ChatMessage& message : messages) {
      borrowed.push_back({ToBridge(message.role), ToBridge(message.content)});
    }
    nibble_template_input input = {};
    input.messages = borrowed.data();
    input.num_messages = borrowed.size();
    input.bos_token = ToBridge(options_.bos_token);
    input.eos_token = ToBridge(options_.eos_token);
    input.now_unix_seconds =
        options_.now_unix_seconds ? *options_.now_unix_seconds : SystemSeconds();
    input.add_generation_prompt = add_generation_prompt;
    BridgeBuffer text, error;
    uint8_t raised = 0;
    const int32_t code =
        nibble_template_render(bridge_.get(), &input, text.out(), &raised, error.out());
    return {BridgeStatus(code, error), std::string(text.view()), raised != 0};
  }

  const std::string source_;
  const ChatTemplateOptions options_;
  const BridgeTemplate bridge_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(
    absl::string_view source, const ChatTemplateOptions& options) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "chat template: ", source.size(), " bytes, at most ", kMaxTemplateBytes, " are taken"));
  }
  const nibble_template_limits limits = {kTemplateFuel, kMaxRenderedBytes, kTemplateDepth};
  nibble_template* bridge = nullptr;
  BridgeBuffer error;
  NIBBLE_RETURN_IF_ERROR(
      BridgeStatus(nibble_template_new(ToBridge(source), limits, &bridge, error.out()), error));
  auto chat_template = std::make_unique<JinjaTemplate>(source, options, BridgeTemplate(bridge));
  NIBBLE_RETURN_IF_ERROR(chat_template->Try());
  return chat_template;
}

}  // namespace nibble
