#include "engine/weights/gguf_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "engine/base/status_macros.h"
#include "engine/weights/gguf_metadata.h"
#include "kernels/check.h"

namespace nibble {
namespace {

constexpr int64_t kAlignment = 32;  // the format's default: no key is needed for it

int64_t Aligned(int64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
void Append(T value, std::vector<uint8_t>& out) {
  const size_t at = out.size();
  out.resize(at + sizeof(value));
  std::memcpy(out.data() + at, &value, sizeof(value));
}

void AppendString(absl::string_view text, std::vector<uint8_t>& out) {
  Append<uint64_t>(text.size(), out);
  out.insert(out.end(), text.begin(), text.end());
}

std::vector<uint8_t> Typed(GgufValueType type) {
  std::vector<uint8_t> out;
  Append(static_cast<int32_t>(type), out);
  return out;
}

std::vector<uint8_t> TypedArray(GgufValueType element, size_t count) {
  std::vector<uint8_t> out = Typed(GgufValueType::kArray);
  Append(static_cast<int32_t>(element), out);
  Append<uint64_t>(count, out);
  return out;
}

std::vector<uint8_t> Preamble(const GgufKeys& keys, size_t num_tensors,
                              absl::Span<const uint8_t> table) {
  std::vector<uint8_t> out = {'G', 'G', 'U', 'F'};
  Append<uint32_t>(3, out);
  Append<uint64_t>(num_tensors, out);
  Append<uint64_t>(keys.size(), out);
  const std::vector<uint8_t> encoded = keys.Encoded();
  out.insert(out.end(), encoded.begin(), encoded.end());
  out.insert(out.end(), table.begin(), table.end());
  out.resize(static_cast<size_t>(Aligned(static_cast<int64_t>(out.size()))));
  return out;
}

}  // namespace

GgufKeys GgufKeys::CopyOf(const GgufFile& file) {
  GgufKeys keys;
  for (const std::string& key : file.Keys()) {
    if (key != "general.alignment") keys.Set(key, file.EncodedValue(key));
  }
  return keys;
}

void GgufKeys::Set(absl::string_view key, std::vector<uint8_t> value) {
  for (Entry& entry : entries_) {
    if (entry.key == key) {
      entry.value = std::move(value);
      return;
    }
  }
  entries_.push_back({std::string(key), std::move(value)});
}

void GgufKeys::SetU32(absl::string_view key, uint32_t value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kU32);
  Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetU64(absl::string_view key, uint64_t value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kU64);
  Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetF64(absl::string_view key, double value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kF64);
  Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetF32(absl::string_view key, float value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kF32);
  Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetBool(absl::string_view key, bool value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kBool);
  Append<uint8_t>(value ? 1 : 0, out);
  Set(key, std::move(out));
}

void GgufKeys::SetString(absl::string_view key, absl::string_view value) {
  std::vector<uint8_t> out = Typed(GgufValueType::kString);
  AppendString(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetStrings(absl::string_view key, absl::Span<const std::string> values) {
  std::vector<uint8_t> out = TypedArray(GgufValueType::kString, values.size());
  for (const std::string& value : values) AppendString(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetFloats(absl::string_view key, absl::Span<const float> values) {
  std::vector<uint8_t> out = TypedArray(GgufValueType::kF32, values.size());
  for (const float value : values) Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::SetInts(absl::string_view key, absl::Span<const int32_t> values) {
  std::vector<uint8_t> out = TypedArray(GgufValueType::kI32, values.size());
  for (const int32_t value : values) Append(value, out);
  Set(key, std::move(out));
}

void GgufKeys::RemoveAll(absl::string_view prefix) {
  entries_.erase(
      std::remove_if(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return absl::StartsWith(entry.key, prefix); }),
      entries_.end());
}

std::vector<uint8_t> GgufKeys::Encoded() const {
  std::vector<uint8_t> out;
  for (const Entry& entry : entries_) {
    AppendString(entry.key, out);
    out.insert(out.end(), entry.value.begin(), entry.value.end());
  }
  return out;
}

GgufFileWriter::GgufFileWriter(const std::string& path)
    : file_(std::make_unique<PartialFile>(path)) {}

absl::StatusOr<GgufFileWriter> GgufFileWriter::Create(const std::string& path, const GgufKeys& keys,
                                                      absl::Span<const GgufTensorPlan> tensors) {
  GgufFileWriter writer(path);
  int64_t offset = 0;
  for (const GgufTensorPlan& tensor : tensors) {
    const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(tensor.type));
    int64_t elements = 1;
    for (const int64_t dim : tensor.dims) elements *= dim;
    NIBBLE_CHECK(info.block_bytes > 0 && tensor.dims[0] % info.block_elements == 0);
    AppendString(tensor.name, writer.table_);
    Append(static_cast<uint32_t>(tensor.dims.size()), writer.table_);
    for (const int64_t dim : tensor.dims) Append(dim, writer.table_);
    Append(static_cast<int32_t>(tensor.type), writer.table_);
    Append(offset, writer.table_);
    writer.starts_.push_back(offset);
    writer.sizes_.push_back(elements / info.block_elements * info.block_bytes);
    offset = Aligned(offset + writer.sizes_.back());
  }
  writer.preamble_bytes_ = Preamble(keys, tensors.size(), writer.table_).size();
  writer.size_bytes_ = static_cast<int64_t>(writer.preamble_bytes_) + offset;
  for (int64_t& start : writer.starts_) start += static_cast<int64_t>(writer.preamble_bytes_);
  NIBBLE_RETURN_IF_ERROR(writer.file_->Create());
  NIBBLE_RETURN_IF_ERROR(writer.file_->Reserve(static_cast<uint64_t>(writer.size_bytes_)));
  return writer;
}

absl::Status GgufFileWriter::Write(size_t index, int64_t offset, absl::Span<const uint8_t> bytes) {
  NIBBLE_CHECK(index < sizes_.size() && offset >= 0);
  NIBBLE_CHECK(offset + static_cast<int64_t>(bytes.size()) <= sizes_[index]);
  return file_->WriteAt(static_cast<uint64_t>(starts_[index] + offset), bytes);
}

absl::Status GgufFileWriter::Finish(const GgufKeys& keys) {
  const std::vector<uint8_t> preamble = Preamble(keys, sizes_.size(), table_);
  NIBBLE_CHECK(preamble.size() == preamble_bytes_);
  NIBBLE_RETURN_IF_ERROR(file_->WriteAt(0, preamble));
  return file_->Publish();
}

}  // namespace nibble
