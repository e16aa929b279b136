// How a quantized model came to be, and how good it is, for people and for programs: the same from
// a file and from a server.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "engine/quantize_record.h"

namespace nibble {

// "name           value", for one report after another.
class Lines {
 public:
  explicit Lines(std::ostream& out) : out_(out) {}
  // Nothing for an empty value. A file's own text cannot drive the terminal: control characters
  // come out as '?'.
  void Add(absl::string_view name, absl::string_view value);

 private:
  std::ostream& out_;
};

// null where nothing is told.
nlohmann::ordered_json ProvenanceJson(const std::optional<QuantizeProvenance>& quantized);
void PrintProvenance(const QuantizeProvenance& quantized, Lines& lines);

}  // namespace nibble
