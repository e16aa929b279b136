#include "cli/generate_flags.h"

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

void AddPromptFlags(Flags& flags, GenerateFlags& generate) {
  flags.Add("--prompt", generate.prompt, "Text to continue, as it is")->type_name("TEXT");
  flags.Add("--chat", generate.chat, "One user message, through the model's chat template")
      ->type_name("TEXT");
  flags.Add("--system", generate.system, "System message before --chat")->type_name("TEXT");
  flags.Add("--token-ids", generate.token_ids, "Prompt as token ids; no BOS is added");
}

void AddSamplingFlags(Flags& flags, SamplingParams& sampling) {
  flags.Add("--temperature", sampling.temperature, "0: greedy; to 100");
  flags.Add("--top-k", sampling.top_k, "Keep the k most likely tokens; 0: all");
  flags.Add("--top-p", sampling.top_p, "Keep the likeliest tokens of this mass, over 0 to 1");
  flags.Add("--min-p", sampling.min_p, "Drop tokens below this share of the likeliest, 0 to 1");
  flags.Add("--repetition-penalty", sampling.repetition_penalty, "0.01 to 10; 1: off");
  flags.Add("--presence-penalty", sampling.presence_penalty, "-10 to 10, once a seen token");
  flags.Add("--frequency-penalty", sampling.frequency_penalty, "-10 to 10, each time seen");
  flags.Add("--seed", sampling.seed, "Repeats a run exactly; default: drawn, and shown in JSON")
      ->type_name("UINT");
  flags.SetTwin("--seed", "");  // NIBBLE_SEED is a server's: drawn from, not the seed of every run
  flags.Add("--logit-bias", sampling.logit_bias, "Added to a token's logit, -100 to 100");
  flags.Add("--allowed-ids", sampling.allowed_token_ids, "Only these tokens may be drawn");
}

void AddStoppingFlags(Flags& flags, StoppingParams& stopping) {
  flags
      .Add("--max-tokens", stopping.max_tokens,
           "Tokens to generate; 0: only score the prompt; default: until the context is full")
      ->type_name("INT");
  flags.Add("--min-tokens", stopping.min_tokens, "No end-of-sequence before so many");
  flags.Add("--stop", stopping.stop, "Text that ends the completion; may be given up to 16 times");
  flags.Add("--stop-token-ids", stopping.stop_token_ids, "Token ids that end the completion");
  flags.Add("--ignore-eos", stopping.ignore_eos, "Go on after end-of-sequence");
  flags.Add("--include-stop", stopping.include_stop, "Keep the matched stop in the text");
}

void AddResponseFlags(Flags& flags, GenerateFlags& generate) {
  flags.Add("--logprobs", generate.response.logprobs,
            "Log probability of each token and of the N likeliest, 0 to 20; -1: none");
  flags.Add("--prompt-logprobs", generate.response.prompt_logprobs,
            "The same for the prompt's tokens");
  flags.Add("--echo", generate.response.echo, "Deliver the prompt before the completion");
  flags.Add("--priority", generate.priority, "-100 to 100; higher goes first");
  flags.Add("--cache-salt", generate.cache_salt,
            "Share cached prompts only with requests of the same salt");
  flags.Add("--timeout", generate.timeout, "Deadline of the call; after it: DEADLINE_EXCEEDED");
  flags.Add("--time-limit", generate.time_limit,
            "Ends well after it, with what there is (finish_reason deadline)");
  AddOutputFlag(flags, generate.output);
}

absl::Status CheckSource(const GenerateFlags& flags) {
  const int given = !flags.model.model.empty() + !flags.remote.server.empty();
  if (given == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("found ", given == 0 ? "neither" : "both",
                                                 " --model ", given == 0 ? "nor" : "and",
                                                 " --server, needed one of them"));
}

absl::StatusOr<Prompt> PromptOf(const GenerateFlags& flags) {
  const int given = flags.prompt.has_value() + flags.chat.has_value() + !flags.token_ids.empty();
  if (given != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", given, " prompts, needed one of --prompt, --chat and --token-ids"));
  }
  if (flags.system.has_value() && !flags.chat.has_value()) {
    return absl::InvalidArgumentError("--system: found without --chat, needed with it");
  }
  if (flags.prompt.has_value()) return TextPrompt{*flags.prompt};
  if (!flags.token_ids.empty()) return TokenPrompt{flags.token_ids};
  ChatPrompt chat;
  if (flags.system.has_value()) chat.messages.push_back({"system", *flags.system});
  chat.messages.push_back({"user", *flags.chat});
  return chat;
}

}  // namespace

void AddGenerateFlags(Flags& flags, GenerateFlags& generate) {
  AddModelFlag(flags, generate.model);
  AddRemoteFlags(flags, generate.remote);
  flags.Rivals({"--model", "--server"});
  AddPromptFlags(flags, generate);
  flags.Rivals({"--prompt", "--chat", "--token-ids"});
  AddStoppingFlags(flags, generate.stopping);
  AddSamplingFlags(flags, generate.sampling);
  AddResponseFlags(flags, generate);
  flags.OnlyWith("--model", [&] {  // a server has its own
    AddDeviceFlags(flags, generate.model);
    AddCacheFlags(flags, generate.model);
  });
}

absl::StatusOr<GenerateRequest> RequestOf(const GenerateFlags& flags) {
  if (absl::Status status = CheckSource(flags); !status.ok()) return status;
  absl::StatusOr<Prompt> prompt = PromptOf(flags);
  if (!prompt.ok()) return prompt.status();
  GenerateRequest request;
  request.prompt = *std::move(prompt);
  request.sampling = flags.sampling;
  request.stopping = flags.stopping;
  request.response = flags.response;
  request.priority = flags.priority;
  request.cache_salt = flags.cache_salt;
  request.time_limit = flags.time_limit;
  return request;
}

}  // namespace nibble
