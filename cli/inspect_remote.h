// `nibble inspect --server`: what a server says of the model it serves.
#pragma once

#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/io.h"
#include "cli/output.h"
#include "cli/remote.h"
#include "engine/quantize_record.h"
#include "nibble/v1/model.grpc.pb.h"

namespace nibble {

// The inverse of what the server makes of it.
QuantizeProvenance FromProto(const v1::Quantization& quantization);

// The response under its own field names; "quantized" as `nibble inspect FILE` has it.
nlohmann::ordered_json RemoteModelJson(const v1::GetModelResponse& model);
void PrintRemoteModel(const v1::GetModelResponse& model, std::ostream& out);

// Waits 10 s for the answer at most.
int RunInspectRemote(const RemoteFlags& flags, OutputFormat output, const Io& io);

}  // namespace nibble
