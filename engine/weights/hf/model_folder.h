// A folder that holds a model in Hugging Face's layout: config.json, safetensors files, tokenizer.
// Nothing outside of it is ever read: names that files give of others are one path component, and
// links must stay inside. (What can write into the folder while it is read can still swap files.)
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/hf/json.h"

namespace nibble {

// How a folder that `nibble quantize` wrote came to be (engine/folder_record.h).
inline constexpr char kProvenanceJson[] = "nibble_quantize.json";

class ModelFolder {
 public:
  // NOT_FOUND, PERMISSION_DENIED, or INVALID_ARGUMENT for what is no folder.
  static absl::StatusOr<ModelFolder> Open(const std::string& path);

  const std::string& name() const { return name_; }  // as it was given, without a slash at the end
  // Whether there is such an entry, a link that leads nowhere included.
  bool Has(absl::string_view file) const;
  // The real path of file `file`. PERMISSION_DENIED for a name with '/' or "..", and for a link
  // out of the folder; NOT_FOUND.
  absl::StatusOr<std::string> PathOf(absl::string_view file) const;
  // All of a file that must be a regular one of at most `max_bytes`; RESOURCE_EXHAUSTED otherwise.
  absl::StatusOr<std::string> ReadText(absl::string_view file, size_t max_bytes) const;
  absl::StatusOr<JsonObject> ReadJson(absl::string_view file, const JsonLimits& limits) const;

 private:
  ModelFolder(std::string name, std::string real)
      : name_(std::move(name)), real_(std::move(real)) {}
  std::string name_;
  std::string real_;  // no links in it
};

}  // namespace nibble
