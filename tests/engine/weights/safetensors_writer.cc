#include "tests/engine/weights/safetensors_writer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble::testing {

void SafetensorsWriter::Add(absl::string_view name, absl::string_view dtype,
                            std::vector<int64_t> shape, std::vector<uint8_t> data) {
  tensors.push_back({std::string(name), std::string(dtype), std::move(shape), std::move(data), {}});
}

SafetensorsWriter::Tensor* SafetensorsWriter::Find(absl::string_view name) {
  const auto it =
      std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

std::string SafetensorsWriter::Json() const {
  if (header.has_value()) return *header;
  std::vector<std::string> entries;
  if (!metadata.empty()) {
    entries.push_back(absl::StrCat("\"__metadata__\":{",
                                   absl::StrJoin(metadata, ",",
                                                 [](std::string* out, const auto& pair) {
                                                   absl::StrAppend(out, "\"", pair.first, "\":\"",
                                                                   pair.second, "\"");
                                                 }),
                                   "}"));
  }
  size_t offset = 0;
  for (const Tensor& tensor : tensors) {
    const size_t end = offset + tensor.data.size();
    const std::string entry = absl::StrCat("{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                                           absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[",
                                           offset, ",", end, "]}");
    entries.push_back(absl::StrCat("\"", tensor.name, "\":", tensor.json.value_or(entry)));
    offset = end;
  }
  return absl::StrCat("{", absl::StrJoin(entries, ","), "}");
}

std::vector<uint8_t> SafetensorsWriter::Build() const {
  const std::string json = Json();
  std::string out;
  const uint64_t size = header_size.value_or(json.size());
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(size >> (8 * i)));
  out += json;
  for (const Tensor& tensor : tensors) out.append(tensor.data.begin(), tensor.data.end());
  out.append(trailing.begin(), trailing.end());
  return {out.begin(), out.end()};
}

}  // namespace nibble::testing
