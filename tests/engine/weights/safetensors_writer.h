// Safetensors files made in memory, valid or precisely wrong. Deterministic.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace nibble::testing {

// Fields are public: a test makes a valid file, spoils one thing and builds it.
struct SafetensorsWriter {
  struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> data;
    std::optional<std::string> json;  // the entry's text; absent: what the fields say
  };

  std::vector<Tensor> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::optional<std::string> header;    // the whole JSON text; absent: what the fields say
  std::optional<uint64_t> header_size;  // the number before it; absent: the truth
  std::vector<uint8_t> trailing;        // after the last tensor

  void Add(absl::string_view name, absl::string_view dtype, std::vector<int64_t> shape,
           std::vector<uint8_t> data);
  Tensor* Find(absl::string_view name);  // null: absent

  std::string Json() const;
  std::vector<uint8_t> Build() const;
};

}  // namespace nibble::testing
