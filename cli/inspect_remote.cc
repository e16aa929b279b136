#include "cli/inspect_remote.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/provenance.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::seconds kPatience{10};

absl::StatusOr<v1::GetModelResponse> Ask(const RemoteFlags& flags) {
  NIBBLE_ASSIGN_OR_RETURN(const RemoteChannel channel, Connect(flags));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::GetModelResponse model;
  const grpc::Status status =
      v1::ModelService::NewStub(channel)->GetModel(&context, v1::GetModelRequest(), &model);
  if (!status.ok()) return FromGrpc(status);
  return model;
}

EvaluationRecord RecordOf(const v1::QuantizationQuality& quality) {
  EvaluationRecord record;
  record.kl = quality.kl_nats();
  record.kl_standard_error = quality.kl_standard_error_nats();
  record.kl_p99 = quality.kl_p99_nats();
  record.top1_agreement = quality.top1_agreement_ratio();
  record.perplexity = quality.perplexity();
  record.perplexity_source = quality.source_perplexity();
  record.tokens = quality.tokens();
  record.text_sha256 = quality.text_sha256();
  record.protocol = quality.protocol();
  return record;
}

std::optional<QuantizeProvenance> ProvenanceOf(const v1::GetModelResponse& model) {
  if (!model.has_quantization()) return std::nullopt;
  return FromProto(model.quantization());
}

}  // namespace

QuantizeProvenance FromProto(const v1::Quantization& quantization) {
  QuantizeProvenance quantized;
  quantized.method = quantization.method();
  quantized.type = quantization.type();
  quantized.options = quantization.options();
  quantized.tool = quantization.tool();
  quantized.source_sha256 = quantization.source_sha256();
  quantized.importance_sha256 = quantization.importance_sha256();
  quantized.calibration_sha256 = quantization.calibration_sha256();
  for (const v1::TensorError& error : quantization.tensor_errors()) {
    quantized.tensor_errors.emplace_back(error.tensor(),
                                         static_cast<float>(error.relative_error()));
  }
  if (quantization.has_quality()) quantized.evaluation = RecordOf(quantization.quality());
  return quantized;
}

Json RemoteModelJson(const v1::GetModelResponse& model) {
  return {{"model", model.model()},
          {"architecture", model.architecture()},
          {"weights_format", model.weights_format()},
          {"num_parameters", model.num_parameters()},
          {"weights_bytes", model.weights_bytes()},
          {"kv_cache_bytes", model.kv_cache_bytes()},
          {"trained_context_tokens", model.trained_context_tokens()},
          {"max_context_tokens", model.max_context_tokens()},
          {"vocab_size", model.vocab_size()},
          {"has_chat_template", !model.chat_template().empty()},
          {"backend", model.backend()},
          {"quantized", ProvenanceJson(ProvenanceOf(model))}};
}

void PrintRemoteModel(const v1::GetModelResponse& model, std::ostream& out) {
  constexpr double kMiB = 1 << 20;
  Lines lines(out);
  lines.Add("model", model.model());
  lines.Add("architecture", model.architecture());
  lines.Add("weights", absl::StrFormat("%d parameters, %.1f MiB on the device, mostly %s",
                                       model.num_parameters(), model.weights_bytes() / kMiB,
                                       model.weights_format()));
  lines.Add("kv cache", absl::StrFormat("%.1f MiB", model.kv_cache_bytes() / kMiB));
  lines.Add("context", absl::StrCat(model.max_context_tokens(), " tokens, trained for ",
                                    model.trained_context_tokens()));
  lines.Add("vocabulary", absl::StrCat(model.vocab_size()));
  lines.Add("chat template", model.chat_template().empty() ? "none" : "yes");
  lines.Add("backend", model.backend());
  if (model.has_quantization()) PrintProvenance(FromProto(model.quantization()), lines);
  out.flush();
}

int RunInspectRemote(const RemoteFlags& flags, OutputFormat output, const Io& io) {
  const absl::StatusOr<v1::GetModelResponse> model = Ask(flags);
  if (!model.ok()) return ExitWith(io, model.status());
  if (output == OutputFormat::kJson) {
    PrintJson(io.out, RemoteModelJson(*model), 2);
  } else {
    PrintRemoteModel(*model, io.out);
  }
  return kExitOk;
}

}  // namespace nibble
