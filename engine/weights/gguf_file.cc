#include "engine/weights/gguf_file.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/gguf_metadata.h"
#include "engine/weights/gguf_tensors.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/printable.h"
#include "kernels/check.h"

namespace nibble {

struct GgufFile::Rep {
  std::string name;
  std::optional<MappedFile> mapping;  // absent over bytes in memory
  absl::Span<const uint8_t> bytes;
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;
  std::map<std::string, size_t, std::less<>> index;  // tensor name -> position in `tensors`
  uint64_t data_start = 0;

  absl::Status ReadAll();
  absl::Status ReadVersion(ByteReader& reader);
  // `status` with the file's name before its message.
  absl::Status Named(const absl::Status& status) const {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
  template <typename T>
  absl::StatusOr<T> Named(absl::StatusOr<T> value) const {
    if (!value.ok()) return Named(value.status());
    return value;
  }
};

absl::Status GgufFile::Rep::ReadVersion(ByteReader& reader) {
  NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> magic,
                          reader.Take(4, "the magic number"));
  const absl::string_view found(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (found != "GGUF") {
    return absl::DataLossError(absl::StrCat("starts with ", QuoteForMessage(found),
                                            ", needed \"GGUF\"; is it a GGUF file?"));
  }
  NIBBLE_ASSIGN_OR_RETURN(version, reader.Read<uint32_t>("the version"));
  if (version != 0 && (version & 0xFFFF) == 0) {
    return absl::UnimplementedError(
        "is a big-endian GGUF file, needed little-endian; convert the model again");
  }
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(absl::StrCat("is GGUF version ", version, ", needed 2 or 3"));
  }
  return absl::OkStatus();
}

absl::Status GgufFile::Rep::ReadAll() {
  ByteReader reader(bytes);
  NIBBLE_RETURN_IF_ERROR(ReadVersion(reader));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t num_tensors, reader.Read<uint64_t>("the tensor count"));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t num_keys, reader.Read<uint64_t>("the key count"));
  NIBBLE_ASSIGN_OR_RETURN(metadata, GgufMetadata::Read(reader, num_keys));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t alignment, metadata.Alignment());
  NIBBLE_ASSIGN_OR_RETURN(tensors, ReadTensorTable(reader, num_tensors));
  for (size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].name, i);
  // A position is at most the file's size and the alignment fits 32 bits: no overflow.
  data_start = (reader.position() + alignment - 1) / alignment * alignment;
  const uint64_t data_bytes = bytes.size() - std::min<uint64_t>(data_start, bytes.size());
  return CheckTensorOffsets(tensors, alignment, data_bytes);
}

GgufFile::GgufFile(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  NIBBLE_ASSIGN_OR_RETURN(GgufFile file, Parse(mapping.bytes(), path));
  file.rep_->mapping.emplace(std::move(mapping));
  return file;
}

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const uint8_t> bytes, absl::string_view name) {
  auto rep = std::make_unique<Rep>();
  rep->name = std::string(name);
  rep->bytes = bytes;
  if (absl::Status status = rep->ReadAll(); !status.ok()) return rep->Named(status);
  return GgufFile(std::move(rep));
}

const std::string& GgufFile::name() const { return rep_->name; }
uint32_t GgufFile::version() const { return rep_->version; }
int64_t GgufFile::size_bytes() const { return static_cast<int64_t>(rep_->bytes.size()); }
absl::Span<const GgufTensor> GgufFile::tensors() const { return rep_->tensors; }

const GgufTensor* GgufFile::Find(absl::string_view tensor_name) const {
  const auto it = rep_->index.find(tensor_name);
  return it == rep_->index.end() ? nullptr : &rep_->tensors[it->second];
}

absl::Span<const uint8_t> GgufFile::Data(const GgufTensor& tensor) const {
  const uint64_t start = rep_->data_start + static_cast<uint64_t>(tensor.offset);
  NIBBLE_CHECK(start + static_cast<uint64_t>(tensor.size_bytes) <= rep_->bytes.size());
  return rep_->bytes.subspan(start, static_cast<size_t>(tensor.size_bytes));
}

absl::StatusOr<absl::Span<const uint8_t>> GgufFile::Read(const GgufTensor& tensor, int64_t offset,
                                                         int64_t size,
                                                         std::vector<uint8_t>& buffer) const {
  NIBBLE_CHECK(offset >= 0 && size >= 0 && offset <= tensor.size_bytes - size);
  const auto range = static_cast<size_t>(size);
  if (!rep_->mapping.has_value()) return Data(tensor).subspan(static_cast<size_t>(offset), range);
  buffer.resize(range);
  const int64_t start = static_cast<int64_t>(rep_->data_start) + tensor.offset + offset;
  const absl::Status status = rep_->mapping->ReadAt(start, absl::MakeSpan(buffer));
  if (!status.ok()) return rep_->Named(status);
  return absl::MakeConstSpan(buffer);
}

absl::Span<const uint8_t> GgufFile::Preamble() const {
  return rep_->bytes.subspan(0, static_cast<size_t>(rep_->data_start));
}

absl::StatusOr<int64_t> GgufFile::ModifiedNs() const {
  if (!rep_->mapping.has_value()) return 0;
  return rep_->Named(rep_->mapping->ModifiedNs());
}

std::vector<std::string> GgufFile::Keys() const { return rep_->metadata.keys(); }
bool GgufFile::Has(absl::string_view key) const { return rep_->metadata.Has(key); }
std::string GgufFile::Describe(absl::string_view key) const { return rep_->metadata.Describe(key); }
std::vector<uint8_t> GgufFile::EncodedValue(absl::string_view key) const {
  return rep_->metadata.Encoded(key);
}

absl::StatusOr<int64_t> GgufFile::GetInt(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetInt(key));
}
absl::StatusOr<double> GgufFile::GetFloat(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetFloat(key));
}
absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetBool(key));
}
absl::StatusOr<std::string> GgufFile::GetString(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetString(key));
}
absl::StatusOr<std::vector<std::string>> GgufFile::GetStrings(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetStrings(key));
}
absl::StatusOr<std::vector<float>> GgufFile::GetFloats(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetFloats(key));
}
absl::StatusOr<std::vector<int32_t>> GgufFile::GetInts(absl::string_view key) const {
  return rep_->Named(rep_->metadata.GetInts(key));
}

}  // namespace nibble
