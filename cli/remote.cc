#include "cli/remote.h"

#include <chrono>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace nibble {
namespace {

// Prompt log probabilities of a whole context come in one message.
constexpr int kMaxMessageBytes = 256 << 20;

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file || text.str().empty()) {
    return absl::NotFoundError(
        absl::StrCat(flag, " ", path, ": found nothing to read, needed a PEM file"));
  }
  return text.str();
}

std::string FieldHints(const google::rpc::BadRequest& bad) {
  std::string text;
  for (const auto& violation : bad.field_violations()) {
    absl::StrAppend(&text, " (field ", violation.field(), ")");
  }
  return text;
}

double SecondsOf(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string Hints(const std::string& details) {
  google::rpc::Status rich;
  std::string text;
  if (!rich.ParseFromString(details)) return text;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&bad)) {
      text += FieldHints(bad);
    } else if (detail.UnpackTo(&retry)) {
      absl::StrAppend(&text, " (try again in ", SecondsOf(retry.retry_delay()), " s)");
    } else if (detail.UnpackTo(&info) && info.metadata().count("stage") > 0) {
      absl::StrAppend(&text, " (stage ", info.metadata().at("stage"), ")");
    }
  }
  return text;
}

void SetPrompt(const Prompt& prompt, v1::GenerateStreamRequest& proto) {
  if (const auto* text = std::get_if<TextPrompt>(&prompt)) {
    proto.set_text(text->text);
  } else if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) {
    proto.mutable_token_ids()->mutable_ids()->Add(tokens->ids.begin(), tokens->ids.end());
  } else {
    for (const ChatMessage& message : std::get<ChatPrompt>(prompt).messages) {
      v1::ChatMessage* one = proto.mutable_chat()->add_messages();
      one->set_role(message.role);
      one->set_content(message.content);
    }
  }
}

void SetSampling(const SamplingParams& sampling, v1::SamplingParams& proto) {
  proto.set_temperature(sampling.temperature);
  proto.set_top_k(sampling.top_k);
  proto.set_top_p(sampling.top_p);
  proto.set_min_p(sampling.min_p);
  proto.set_repetition_penalty(sampling.repetition_penalty);
  proto.set_presence_penalty(sampling.presence_penalty);
  proto.set_frequency_penalty(sampling.frequency_penalty);
  if (sampling.seed.has_value()) proto.set_seed(*sampling.seed);
  for (const auto& [id, bias] : sampling.logit_bias) (*proto.mutable_logit_bias())[id] = bias;
  proto.mutable_allowed_token_ids()->Add(sampling.allowed_token_ids.begin(),
                                         sampling.allowed_token_ids.end());
}

void SetStopping(const StoppingParams& stopping, v1::StoppingParams& proto) {
  if (stopping.max_tokens.has_value()) proto.set_max_tokens(*stopping.max_tokens);
  proto.set_min_tokens(stopping.min_tokens);
  for (const std::string& stop : stopping.stop) proto.add_stop(stop);
  proto.mutable_stop_token_ids()->Add(stopping.stop_token_ids.begin(),
                                      stopping.stop_token_ids.end());
  proto.set_ignore_eos(stopping.ignore_eos);
  proto.set_include_stop(stopping.include_stop);
}

// -1 is how flags say "none"; on the wire that is an absent field. Anything else is for the server
// to judge.
void SetResponse(const ResponseParams& response, v1::ResponseParams& proto) {
  if (response.logprobs != -1) proto.set_logprobs(response.logprobs);
  if (response.prompt_logprobs != -1) proto.set_prompt_logprobs(response.prompt_logprobs);
  proto.set_echo(response.echo);
}

Logprob FromProto(const v1::TokenLogprob& proto) {
  Logprob logprob{proto.token_id(), proto.logprob(), {}};
  for (const v1::TopLogprob& top : proto.top()) {
    logprob.top.emplace_back(top.token_id(), top.logprob());
  }
  return logprob;
}

// `first_prompt`: no prompt position was scored before, so the unscored first one comes first.
Delta FromProto(const v1::Delta& proto, bool first_prompt) {
  Delta delta;
  delta.text = proto.text();
  delta.token_ids.assign(proto.token_ids().begin(), proto.token_ids().end());
  for (const v1::TokenLogprob& one : proto.logprobs()) delta.logprobs.push_back(FromProto(one));
  if (first_prompt) delta.prompt_logprobs.push_back(std::nullopt);
  for (const v1::TokenLogprob& one : proto.prompt_logprobs()) {
    delta.prompt_logprobs.push_back(FromProto(one));
  }
  return delta;
}

Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

Started FromProto(const v1::Started& proto) {
  Started started;
  started.prompt_tokens = proto.prompt_tokens();
  started.cached_tokens = proto.cached_tokens();
  started.effective.sampling.seed = proto.effective().sampling().seed();
  return started;
}

// The enums are declared in the same order with the same numbers; a newer server's reason is
// kUnspecified.
FinishReason FromProto(v1::FinishReason reason) {
  const bool known = reason >= v1::FINISH_REASON_EOS && reason <= v1::FINISH_REASON_DRAINED;
  return known ? static_cast<FinishReason>(reason) : FinishReason::kUnspecified;
}

Outcome FromProto(const v1::Finished& proto) {
  Outcome outcome;
  outcome.finish_reason = FromProto(proto.finish_reason());
  outcome.matched_stop = proto.matched_stop();
  if (proto.has_matched_token_id()) outcome.matched_token = proto.matched_token_id();
  outcome.usage = {proto.usage().prompt_tokens(), proto.usage().cached_tokens(),
                   proto.usage().completion_tokens()};
  const v1::Timings& timings = proto.timings();
  outcome.timings.queue = FromSeconds(timings.queue_seconds());
  outcome.timings.prefill = FromSeconds(timings.prefill_seconds());
  outcome.timings.first_token = FromSeconds(timings.first_token_seconds());
  outcome.timings.decode = FromSeconds(timings.decode_seconds());
  outcome.timings.total = FromSeconds(timings.total_seconds());
  outcome.timings.preemptions = timings.preemptions();
  outcome.timings.recomputed_tokens = timings.recomputed_tokens();
  return outcome;
}

void AddTlsFlags(Flags& flags, RemoteFlags& remote) {
  flags.Add("--tls-ca", remote.tls_ca, "PEM; connect by TLS to a server signed by it")
      ->type_name("FILE");
  flags.Add("--tls-cert", remote.tls_cert, "PEM certificate of this client (mTLS)")
      ->type_name("FILE");
  flags.Add("--tls-key", remote.tls_key, "PEM key of this client (mTLS)")->type_name("FILE");
  flags
      .Add("--tls-server-name", remote.tls_server_name,
           "A name of the server's certificate, where the address is none: 127.0.0.1, an IP")
      ->type_name("NAME");
  // `serve` has flags of these names. Both commands run in one container, whose health check would
  // take the server's certificate for its own.
  flags.SetTwin("--tls-cert", "NIBBLE_CLIENT_TLS_CERT");
  flags.SetTwin("--tls-key", "NIBBLE_CLIENT_TLS_KEY");
}

}  // namespace

void AddRemoteFlags(Flags& flags, RemoteFlags& remote) {
  flags.Add("--server", remote.server, "A running nibble server")->type_name("HOST:PORT");
  flags.OnlyWith("--server", [&] { AddTlsFlags(flags, remote); });
}

absl::StatusOr<RemoteChannel> Connect(const RemoteFlags& flags) {
  if (flags.tls_cert.empty() != flags.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls-cert and --tls-key: found one of them, needed both or neither");
  }
  if (flags.tls_ca.empty() && !flags.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls-cert: found without --tls-ca, needed with it");
  }
  if (flags.tls_ca.empty() && !flags.tls_server_name.empty()) {
    return absl::InvalidArgumentError("--tls-server-name: found without --tls-ca, needed with it");
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!flags.tls_ca.empty()) {
    grpc::SslCredentialsOptions options;
    NIBBLE_ASSIGN_OR_RETURN(options.pem_root_certs, ReadPem("--tls-ca", flags.tls_ca));
    NIBBLE_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadPem("--tls-cert", flags.tls_cert));
    NIBBLE_ASSIGN_OR_RETURN(options.pem_private_key, ReadPem("--tls-key", flags.tls_key));
    credentials = grpc::SslCredentials(options);
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  if (!flags.tls_server_name.empty()) arguments.SetSslTargetNameOverride(flags.tls_server_name);
  return grpc::CreateCustomChannel(flags.server, credentials, arguments);
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      absl::StrCat(status.error_message(), Hints(status.error_details())));
}

v1::GenerateStreamRequest ToProto(const GenerateRequest& request) {
  v1::GenerateStreamRequest proto;
  SetPrompt(request.prompt, proto);
  SetSampling(request.sampling, *proto.mutable_sampling());
  SetStopping(request.stopping, *proto.mutable_stopping());
  SetResponse(request.response, *proto.mutable_response());
  if (request.priority != 0) proto.set_priority(request.priority);
  if (!request.cache_salt.empty()) proto.set_cache_salt(request.cache_salt);
  if (request.time_limit.has_value()) proto.set_time_limit_seconds(Seconds(*request.time_limit));
  return proto;
}

RemoteCall::RemoteCall(const RemoteChannel& channel, const GenerateRequest& request,
                       std::optional<Duration> timeout)
    : stub_(v1::GenerationService::NewStub(channel)), request_(ToProto(request)) {
  if (timeout.has_value()) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(*timeout));
  }
}

Outcome RemoteCall::Run(GenerationWriter& writer) {
  Outcome outcome;
  bool finished = false;
  bool prompt_scored = false;
  const auto stream = stub_->GenerateStream(&context_, request_);
  v1::GenerateStreamResponse event;
  while (stream->Read(&event)) {
    if (event.has_started()) {
      writer.OnStarted(FromProto(event.started()));
    } else if (event.has_delta()) {
      const bool first = request_.response().has_prompt_logprobs() && !prompt_scored;
      writer.OnDelta(FromProto(event.delta(), first));
      prompt_scored = true;
    } else if (event.has_finished()) {
      outcome = FromProto(event.finished());
      finished = true;
    }
  }
  outcome.status = FromGrpc(stream->Finish());
  if (outcome.status.ok() && !finished) {
    outcome.status = absl::DataLossError("the stream ended without its last event");
  }
  return outcome;
}

}  // namespace nibble
