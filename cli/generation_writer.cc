#include "cli/generation_writer.h"

#include "absl/strings/str_format.h"
#include "server/convert.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

double Milliseconds(Duration d) { return Seconds(d) * 1e3; }

Json LogprobJson(const Logprob& logprob) {
  Json top = Json::array();
  for (const auto& [id, value] : logprob.top) {
    top.push_back({{"token_id", id}, {"logprob", value}});
  }
  return {{"token_id", logprob.id}, {"logprob", logprob.logprob}, {"top", std::move(top)}};
}

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"cached_tokens", usage.cached_tokens},
          {"completion_tokens", usage.completion_tokens}};
}

Json TimingsJson(const Timings& timings) {
  return {{"queue_ms", Milliseconds(timings.queue)},
          {"prefill_ms", Milliseconds(timings.prefill)},
          {"first_token_ms", Milliseconds(timings.first_token)},
          {"decode_ms", Milliseconds(timings.decode)},
          {"total_ms", Milliseconds(timings.total)},
          {"preemptions", timings.preemptions},
          {"recomputed_tokens", timings.recomputed_tokens}};
}

// For people, on stderr of a terminal: "[eos; 31 + 48 tokens, first after 52 ms, 38.1 tokens/s]".
std::string StatsLine(const Outcome& outcome) {
  const int32_t decoded = outcome.usage.completion_tokens - 1;  // the first comes from the prefill
  const double seconds = Seconds(outcome.timings.decode);
  return absl::StrFormat("[%s; %d + %d tokens, first after %.0f ms, %.1f tokens/s]",
                         FinishReasonName(outcome.finish_reason), outcome.usage.prompt_tokens,
                         outcome.usage.completion_tokens, Milliseconds(outcome.timings.first_token),
                         decoded > 0 && seconds > 0 ? decoded / seconds : 0.0);
}

}  // namespace

GenerationWriter::GenerationWriter(const Io& io, OutputFormat format,
                                   const ResponseParams& response)
    : io_(io), format_(format), response_(response) {}

void GenerationWriter::OnStarted(const Started& started) {
  seed_ = started.effective.sampling.seed.value_or(0);
}

void GenerationWriter::OnDelta(const Delta& delta) {
  if (format_ == OutputFormat::kText) io_.out << delta.text << std::flush;
  text_ += delta.text;
  token_ids_.insert(token_ids_.end(), delta.token_ids.begin(), delta.token_ids.end());
  logprobs_.insert(logprobs_.end(), delta.logprobs.begin(), delta.logprobs.end());
  prompt_logprobs_.insert(prompt_logprobs_.end(), delta.prompt_logprobs.begin(),
                          delta.prompt_logprobs.end());
}

Json GenerationWriter::Summary(const Outcome& outcome) const {
  Json json = {{"text", text_},
               {"token_ids", token_ids_},
               {"finish_reason", std::string(FinishReasonName(outcome.finish_reason))},
               {"usage", UsageJson(outcome.usage)},
               {"timings", TimingsJson(outcome.timings)},
               {"seed", seed_}};
  if (!outcome.matched_stop.empty()) json["matched_stop"] = outcome.matched_stop;
  if (outcome.matched_token >= 0) json["matched_token"] = outcome.matched_token;
  if (response_.logprobs >= 0) {
    json["logprobs"] = Json::array();
    for (const Logprob& logprob : logprobs_) json["logprobs"].push_back(LogprobJson(logprob));
  }
  if (response_.prompt_logprobs >= 0) {
    json["prompt_logprobs"] = Json::array();
    for (const std::optional<Logprob>& logprob : prompt_logprobs_) {
      json["prompt_logprobs"].push_back(logprob.has_value() ? LogprobJson(*logprob) : Json());
    }
  }
  return json;
}

int GenerationWriter::OnFinished(const Outcome& outcome, bool interrupted) {
  const bool text = format_ == OutputFormat::kText;
  if (text && (outcome.status.ok() || !text_.empty())) io_.out << std::endl;
  if (!outcome.status.ok()) {
    if (interrupted) return kExitInterrupted;
    return ExitWith(io_, outcome.status);
  }
  if (!text) {
    PrintJson(io_.out, Summary(outcome));
  } else if (io_.err_is_terminal) {
    io_.err << StatsLine(outcome) << std::endl;
  }
  return kExitOk;
}

}  // namespace nibble
