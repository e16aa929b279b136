// A GenerationService, a ModelService and a health service in this process, to see what the client
// sends and how it takes answers.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "nibble/v1/generation.grpc.pb.h"
#include "nibble/v1/model.grpc.pb.h"

namespace nibble {

class FakeService final : public v1::GenerationService::Service,
                          public v1::ModelService::Service,
                          public grpc::health::v1::Health::Service {
 public:
  FakeService() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::GenerationService::Service*>(this));
    builder.RegisterService(static_cast<v1::ModelService::Service*>(this));
    builder.RegisterService(static_cast<grpc::health::v1::Health::Service*>(this));
    server_ = builder.BuildAndStart();
    address = "127.0.0.1:" + std::to_string(port);
  }

  grpc::Status GenerateStream(grpc::ServerContext* context,
                              const v1::GenerateStreamRequest* request,
                              grpc::ServerWriter<v1::GenerateStreamResponse>* writer) override {
    seen = *request;
    deadline_set = context->deadline() < std::chrono::system_clock::now() + std::chrono::hours(1);
    for (const v1::GenerateStreamResponse& event : events) writer->Write(event);
    if (before_end) before_end(context);
    return status;
  }

  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override {
    if (request->service() == "unknown") return {grpc::StatusCode::NOT_FOUND, "unknown service"};
    response->set_status(health);
    return grpc::Status::OK;
  }

  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                        v1::GetModelResponse* response) override {
    *response = model;
    return grpc::Status::OK;
  }

  std::string address;
  v1::GetModelResponse model;
  std::vector<v1::GenerateStreamResponse> events;  // what every stream is answered with
  std::function<void(grpc::ServerContext*)> before_end;
  grpc::Status status;
  v1::GenerateStreamRequest seen;
  bool deadline_set = false;
  grpc::health::v1::HealthCheckResponse::ServingStatus health =
      grpc::health::v1::HealthCheckResponse::SERVING;

 private:
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace nibble
