#include "engine/weights/safetensors_file.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/mapped_file.h"
#include "kernels/check.h"

namespace nibble {

struct SafetensorsFile::Rep {
  std::string name;
  std::optional<MappedFile> mapping;  // absent over bytes in memory
  absl::Span<const uint8_t> bytes;
  SafetensorsHeader header;
  std::map<std::string, size_t, std::less<>> index;  // tensor name -> position in header.tensors
  size_t data_start = 0;

  absl::Status ReadAll();
  absl::Status Named(const absl::Status& status) const {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
};

absl::Status SafetensorsFile::Rep::ReadAll() {
  ByteReader reader(bytes);
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t length, reader.Read<uint64_t>("the header's length"));
  if (length > kMaxSafetensorsHeader) {
    return absl::DataLossError(absl::StrCat("claims a header of ", length, " bytes, at most ",
                                            kMaxSafetensorsHeader,
                                            " are read; is it a safetensors file?"));
  }
  NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> json, reader.Take(length, "the header"));
  if (json.empty() || json[0] != '{') {
    return absl::DataLossError("header does not begin with '{'; is it a safetensors file?");
  }
  data_start = 8 + json.size();
  NIBBLE_ASSIGN_OR_RETURN(
      header, ReadSafetensorsHeader({reinterpret_cast<const char*>(json.data()), json.size()},
                                    reader.remaining()));
  for (size_t i = 0; i < header.tensors.size(); ++i) index.emplace(header.tensors[i].name, i);
  return absl::OkStatus();
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  NIBBLE_ASSIGN_OR_RETURN(SafetensorsFile file, Parse(mapping.bytes(), path));
  file.rep_->mapping.emplace(std::move(mapping));
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const uint8_t> bytes,
                                                       absl::string_view name) {
  auto rep = std::make_unique<Rep>();
  rep->name = std::string(name);
  rep->bytes = bytes;
  if (absl::Status status = rep->ReadAll(); !status.ok()) return rep->Named(status);
  return SafetensorsFile(std::move(rep));
}

bool SafetensorsFile::Begins(absl::Span<const uint8_t> head) {
  if (head.size() < 9 || head[8] != '{') return false;
  uint64_t length;
  std::memcpy(&length, head.data(), sizeof(length));
  return length >= 2 && length <= kMaxSafetensorsHeader;
}

const std::string& SafetensorsFile::name() const { return rep_->name; }
int64_t SafetensorsFile::size_bytes() const { return static_cast<int64_t>(rep_->bytes.size()); }
absl::Span<const SafetensorsTensor> SafetensorsFile::tensors() const {
  return rep_->header.tensors;
}
absl::Span<const std::pair<std::string, std::string>> SafetensorsFile::metadata() const {
  return rep_->header.metadata;
}

const SafetensorsTensor* SafetensorsFile::Find(absl::string_view tensor_name) const {
  const auto it = rep_->index.find(tensor_name);
  return it == rep_->index.end() ? nullptr : &rep_->header.tensors[it->second];
}

absl::Status SafetensorsFile::Read(const SafetensorsTensor& tensor, int64_t offset,
                                   absl::Span<uint8_t> out) const {
  const auto size = static_cast<int64_t>(out.size());
  NIBBLE_CHECK(offset >= 0 && size <= tensor.size_bytes && offset <= tensor.size_bytes - size);
  const int64_t start = static_cast<int64_t>(rep_->data_start) + tensor.offset + offset;
  if (!rep_->mapping.has_value()) {
    if (!out.empty()) std::memcpy(out.data(), rep_->bytes.data() + start, out.size());
    return absl::OkStatus();
  }
  const absl::Status status = rep_->mapping->ReadAt(start, out);
  return status.ok() ? status : rep_->Named(status);
}

absl::Span<const uint8_t> SafetensorsFile::Preamble() const {
  return rep_->bytes.subspan(0, rep_->data_start);
}

absl::StatusOr<int64_t> SafetensorsFile::ModifiedNs() const {
  if (!rep_->mapping.has_value()) return 0;
  absl::StatusOr<int64_t> modified = rep_->mapping->ModifiedNs();
  if (!modified.ok()) return rep_->Named(modified.status());
  return modified;
}

}  // namespace nibble
