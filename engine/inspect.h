// What `nibble inspect` and `serve` want to know of a file without loading its weights. A corrupt
// file is a report with an error in it, not a failure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/model_config.h"
#include "engine/quantize_record.h"
#include "engine/weights/weight_source.h"

namespace nibble {

struct InspectReport {
  std::string path;
  int64_t file_bytes = 0;
  std::string format;   // "GGUF v3"
  absl::Status status;  // not OK: corrupt or not servable; what could be read is filled in
  ModelConfig config;
  int64_t num_parameters = 0;
  int64_t weights_bytes = 0;  // tensors in the file
  int64_t loaded_bytes = 0;   // canonical, on a device
  double bits_per_weight = 0;
  std::vector<std::pair<std::string, int64_t>> types;  // type name, tensors; most first
  std::vector<TensorReport> tensors;
  std::string tokenizer;  // "byte-level BPE, pre smollm, 49152 tokens, bos 1, eos 2"
  bool has_chat_template = false;
  int64_t kv_bytes_per_token = 0;        // f16
  std::vector<std::string> unsupported;  // each names a thing and why; `status` can be OK beside
                                         // one that only chats need
  std::optional<QuantizeProvenance> quantized;  // absent: the file does not say
  std::string quantized_error;  // why that could not be read; the model can be served all the same
  std::vector<std::pair<std::string, std::string>> metadata;  // key, one line
};

InspectReport Inspect(const std::string& path);

}  // namespace nibble
