#include <grpcpp/grpcpp.h>

#include <memory>

#include "engine/weights/printable.h"
#include "nibble/v1/model.grpc.pb.h"
#include "server/finish_unary.h"
#include "server/services.h"

namespace nibble {
namespace {

// A proto string must be UTF-8, a file's may be anything.
std::string Utf8(const std::string& text) { return IsUtf8(text) ? text : QuoteForMessage(text); }

void Fill(const EvaluationRecord& record, v1::QuantizationQuality* quality) {
  quality->set_kl_nats(record.kl);
  quality->set_kl_standard_error_nats(record.kl_standard_error);
  quality->set_kl_p99_nats(record.kl_p99);
  quality->set_top1_agreement_ratio(record.top1_agreement);
  quality->set_perplexity(record.perplexity);
  quality->set_source_perplexity(record.perplexity_source);
  quality->set_tokens(record.tokens);
  quality->set_text_sha256(Utf8(record.text_sha256));
  quality->set_protocol(Utf8(record.protocol));
}

void Fill(const QuantizeProvenance& quantized, v1::Quantization* quantization) {
  quantization->set_method(Utf8(quantized.method));
  quantization->set_type(Utf8(quantized.type));
  quantization->set_options(Utf8(quantized.options));
  quantization->set_tool(Utf8(quantized.tool));
  quantization->set_source_sha256(Utf8(quantized.source_sha256));
  quantization->set_importance_sha256(Utf8(quantized.importance_sha256));
  quantization->set_calibration_sha256(Utf8(quantized.calibration_sha256));
  for (const auto& [tensor, error] : quantized.tensor_errors) {
    v1::TensorError* out = quantization->add_tensor_errors();
    out->set_tensor(Utf8(tensor));
    out->set_relative_error(error);
  }
  if (quantized.evaluation.has_value()) {
    Fill(*quantized.evaluation, quantization->mutable_quality());
  }
}

void Fill(const ServingState::Serving& serving, v1::GetModelResponse* response) {
  const ModelInfo& model = *serving.model;
  response->set_model(model.name);
  response->set_architecture(model.architecture);
  response->set_weights_format(model.weights_format);
  response->set_num_parameters(model.num_parameters);
  response->set_weights_bytes(model.weights_bytes);
  response->set_kv_cache_bytes(model.kv_cache_bytes);
  response->set_trained_context_tokens(model.context_length);
  response->set_chat_template(model.chat_template);
  response->set_backend(model.backend);
  if (model.quantized.has_value()) Fill(*model.quantized, response->mutable_quantization());
  const RunnerLimits limits = serving.engine->limits();
  response->set_max_context_tokens(limits.max_context);
  response->set_vocab_size(limits.vocab_size);
  const Tokenizer& tokenizer = serving.engine->tokenizer();
  if (tokenizer.bos_id() >= 0) response->set_bos_token_id(tokenizer.bos_id());
  if (tokenizer.eos_id() >= 0) response->set_eos_token_id(tokenizer.eos_id());
  const absl::Span<const int32_t> ends = tokenizer.end_of_generation_ids();
  response->mutable_end_of_generation_token_ids()->Add(ends.begin(), ends.end());
}

void Fill(const EngineLoad& load, const Admission& admission, bool draining,
          v1::GetLoadResponse* response) {
  response->set_running(load.running);
  response->set_waiting(load.waiting);
  response->set_paused(load.paused);
  response->set_queued_prompt_tokens(load.queued_prompt_tokens);
  response->set_blocks_in_use(load.blocks_in_use);
  response->set_num_blocks(load.num_blocks);
  response->set_block_size_tokens(load.block_size);
  response->set_kv_cache_usage_ratio(
      load.num_blocks > 0 ? static_cast<double>(load.blocks_in_use) / load.num_blocks : 0);
  response->set_open_requests(admission.counts().open_requests);
  response->set_max_open_requests(admission.limits().max_open_requests);
  response->set_steps(load.steps);
  response->set_step_seconds(Seconds(load.step_time));
  response->set_draining(draining);
}

class ModelService final : public v1::ModelService::CallbackService {
 public:
  explicit ModelService(ServerParts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    auto serving = parts_.state.ForReading(request->has_model() ? &request->model() : nullptr);
    if (serving.ok()) Fill(*serving, response);
    DropRequest(request);
    return FinishUnary(context, parts_, serving.status());
  }

  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override {
    auto serving = parts_.state.ForReading(request->has_model() ? &request->model() : nullptr);
    if (serving.ok()) {
      const bool draining = parts_.state.phase() == ServingState::Phase::kDraining;
      Fill(serving->engine->Load(), parts_.admission, draining, response);
    }
    DropRequest(request);
    return FinishUnary(context, parts_, serving.status());
  }

 private:
  ServerParts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateModelService(ServerParts& parts) {
  return std::make_unique<ModelService>(parts);
}

}  // namespace nibble
