#include "tests/engine/weights/gguf_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/check.h"

namespace nibble::testing {
namespace {

template <typename T>
void Append(std::vector<uint8_t>& out, T value) {
  const std::vector<uint8_t> bytes = BytesOf(value);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

void AppendString(std::vector<uint8_t>& out, absl::string_view text) {
  Append<uint64_t>(out, text.size());
  out.insert(out.end(), text.begin(), text.end());
}

void Pad(std::vector<uint8_t>& out, uint64_t alignment) {
  while (out.size() % alignment != 0) out.push_back(0);
}

std::vector<uint8_t> ArrayHead(int32_t element, uint64_t count) {
  std::vector<uint8_t> out;
  Append(out, element);
  Append(out, count);
  return out;
}

}  // namespace

std::vector<uint8_t> BytesOfString(absl::string_view text) {
  std::vector<uint8_t> out;
  AppendString(out, text);
  return out;
}

void GgufWriter::Raw(absl::string_view key, int32_t type, std::vector<uint8_t> value) {
  for (Entry& entry : entries) {
    if (entry.key == key) {
      entry.type = type;
      entry.value = std::move(value);
      return;
    }
  }
  entries.push_back({std::string(key), type, std::move(value)});
}

void GgufWriter::U32(absl::string_view key, uint32_t value) { Raw(key, 4, BytesOf(value)); }
void GgufWriter::U64(absl::string_view key, uint64_t value) { Raw(key, 10, BytesOf(value)); }
void GgufWriter::F32(absl::string_view key, float value) { Raw(key, 6, BytesOf(value)); }
void GgufWriter::Bool(absl::string_view key, bool value) {
  Raw(key, 7, {value ? uint8_t{1} : uint8_t{0}});
}
void GgufWriter::String(absl::string_view key, absl::string_view value) {
  Raw(key, 8, BytesOfString(value));
}

void GgufWriter::Strings(absl::string_view key, const std::vector<std::string>& values) {
  std::vector<uint8_t> out = ArrayHead(8, values.size());
  for (const std::string& value : values) AppendString(out, value);
  Raw(key, 9, std::move(out));
}

void GgufWriter::Floats(absl::string_view key, const std::vector<float>& values) {
  std::vector<uint8_t> out = ArrayHead(6, values.size());
  for (const float value : values) Append(out, value);
  Raw(key, 9, std::move(out));
}

void GgufWriter::Ints(absl::string_view key, const std::vector<int32_t>& values) {
  std::vector<uint8_t> out = ArrayHead(5, values.size());
  for (const int32_t value : values) Append(out, value);
  Raw(key, 9, std::move(out));
}

void GgufWriter::Remove(absl::string_view key) {
  entries.erase(
      std::remove_if(entries.begin(), entries.end(), [&](const Entry& e) { return e.key == key; }),
      entries.end());
}

void GgufWriter::Add(absl::string_view name, std::vector<uint64_t> dims, GgmlType type,
                     std::vector<uint8_t> data) {
  tensors.push_back({std::string(name), std::move(dims), static_cast<int32_t>(type),
                     std::move(data), std::nullopt});
}

GgufWriter::Tensor* GgufWriter::FindTensor(absl::string_view name) {
  const auto it =
      std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

void GgufWriter::RemoveTensor(absl::string_view name) {
  tensors.erase(std::remove_if(tensors.begin(), tensors.end(),
                               [&](const Tensor& t) { return t.name == name; }),
                tensors.end());
}

std::vector<uint8_t> GgufWriter::Build() const {
  std::vector<uint8_t> out(magic.begin(), magic.end());
  Append(out, version);
  Append<uint64_t>(out, num_tensors.value_or(tensors.size()));
  Append<uint64_t>(out, num_keys.value_or(entries.size()));
  for (const Entry& entry : entries) {
    AppendString(out, entry.key);
    Append(out, entry.type);
    out.insert(out.end(), entry.value.begin(), entry.value.end());
  }
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    AppendString(out, tensor.name);
    Append(out, static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) Append(out, dim);
    Append(out, tensor.type);
    Append(out, tensor.offset.value_or(offset));
    offset = (offset + tensor.data.size() + alignment - 1) / alignment * alignment;
  }
  for (const Tensor& tensor : tensors) {
    Pad(out, alignment);
    out.insert(out.end(), tensor.data.begin(), tensor.data.end());
  }
  return out;
}

std::string WriteTempFile(absl::string_view name, absl::Span<const uint8_t> bytes) {
  const std::string path =
      ::testing::TempDir() + "/nibble_" + std::to_string(getpid()) + "_" + std::string(name);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  NIBBLE_CHECK(file != nullptr);
  NIBBLE_CHECK(bytes.empty() || std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  NIBBLE_CHECK(std::fclose(file) == 0);
  return path;
}

}  // namespace nibble::testing
