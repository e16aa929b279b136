// JSON files of a model folder, all of them untrusted: bounded before anything is built from them,
// and read through getters whose errors name the file and the key.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble {

struct JsonLimits {
  size_t bytes = 1 << 20;  // of config files; real ones are under 20 KiB
  size_t values = 1 << 16;
  size_t depth = 16;
};

// One object of a JSON file. Copies share the parsed file. A key whose value is null is absent.
// Getters: INVALID_ARGUMENT "<file>: key 'a.b' is <value>, needed ...".
class JsonObject {
 public:
  // An empty object.
  JsonObject();
  // DATA_LOSS for text that is not one JSON object, or has a key twice in an object;
  // RESOURCE_EXHAUSTED names the limit that the text exceeds. `name` is the file's, for messages.
  static absl::StatusOr<JsonObject> Parse(absl::string_view text, absl::string_view name,
                                          const JsonLimits& limits);

  bool Has(absl::string_view key) const;
  bool empty() const;
  std::vector<std::string> Keys() const;

  absl::StatusOr<int64_t> Int(absl::string_view key, int64_t min, int64_t max,
                              std::optional<int64_t> absent = std::nullopt) const;
  absl::StatusOr<double> Number(absl::string_view key,
                                std::optional<double> absent = std::nullopt) const;
  absl::StatusOr<bool> Bool(absl::string_view key, bool absent) const;
  absl::StatusOr<std::string> String(absl::string_view key,
                                     std::optional<std::string> absent = std::nullopt) const;
  // Empty where the key is absent.
  absl::StatusOr<JsonObject> Object(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Strings(absl::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Ints(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Numbers(absl::string_view key) const;
  absl::StatusOr<std::vector<JsonObject>> Objects(absl::string_view key) const;
  // An array of strings "a b", or of pairs of strings: as pairs, cut at the first space behind the
  // first byte.
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Pairs(
      absl::string_view key) const;

  bool IsString(absl::string_view key) const;
  bool IsArray(absl::string_view key) const;
  bool IsObject(absl::string_view key) const;

  // The value as a line for people, at most about 120 bytes of it; "nothing" for an absent key.
  std::string Describe(absl::string_view key) const;
  // INVALID_ARGUMENT and UNIMPLEMENTED "<file>: key '<key>' is <value>, <why>".
  absl::Status Unfit(absl::string_view key, absl::string_view needed) const;
  absl::Status NotImplemented(absl::string_view key, absl::string_view why) const;

 private:
  JsonObject(std::shared_ptr<const nlohmann::json> file, const nlohmann::json* object,
             std::string name, std::string path);
  const nlohmann::json* Find(absl::string_view key) const;  // null: absent
  absl::Status Problem(absl::StatusCode code, absl::string_view key, absl::string_view why) const;
  JsonObject Child(const nlohmann::json* object, absl::string_view key) const;

  std::shared_ptr<const nlohmann::json> file_;
  const nlohmann::json* object_;
  std::string name_;
  std::string path_;  // of this object, "quantization_config."
};

}  // namespace nibble
