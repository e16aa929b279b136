#include "engine/weights/packed_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/byte_reader.h"
#include "engine/weights/mapped_file.h"
#include "engine/weights/packed_layout.h"
#include "engine/weights/printable.h"

namespace nibble {
namespace {

// `header` and the table as the checksum wants them.
uint64_t TableChecksum(PackedHeader header, absl::Span<const uint8_t> table) {
  header.checksum = 0;
  return HeaderChecksum(header, table);
}

absl::Status CheckHeader(const PackedHeader& header, uint64_t file_bytes) {
  if (std::memcmp(header.magic, kPackedMagic, sizeof(header.magic)) != 0) {
    return absl::DataLossError("is not a file of packed weights");
  }
  if (header.byte_order == kForeignByteOrder) {
    return absl::UnimplementedError("was written by a machine of the other byte order");
  }
  if (header.byte_order != kByteOrder) {
    return absl::DataLossError(absl::StrCat("has the byte order mark ", header.byte_order));
  }
  if (header.version != kPackedVersion) {
    return absl::UnimplementedError(absl::StrCat("is of format version ", header.version,
                                                 ", this program reads ", kPackedVersion));
  }
  if (header.file_bytes != file_bytes) {
    return absl::DataLossError(absl::StrCat("has ", file_bytes, " bytes, its header says ",
                                            header.file_bytes, "; was it truncated?"));
  }
  if (header.table_bytes > file_bytes - sizeof(header)) {
    return absl::DataLossError(absl::StrCat("has a table of ", header.table_bytes, " bytes, only ",
                                            file_bytes - sizeof(header), " follow the header"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadBounded(ByteReader& reader, uint64_t limit,
                                        absl::string_view what) {
  NIBBLE_ASSIGN_OR_RETURN(const absl::string_view text, reader.ReadString(what));
  if (text.size() > limit) {
    return absl::DataLossError(
        absl::StrCat(what, " has ", text.size(), " bytes, at most ", limit, " are read"));
  }
  return std::string(text);
}

absl::StatusOr<std::string> ReadName(ByteReader& reader, absl::string_view what) {
  NIBBLE_ASSIGN_OR_RETURN(std::string name, ReadBounded(reader, kMaxPackedName, what));
  if (!IsPrintableName(name, kMaxPackedName)) {
    return absl::DataLossError(
        absl::StrCat(what, " is ", QuoteForMessage(name), ", needed printable ASCII characters"));
  }
  return name;
}

absl::StatusOr<PackedFileKey> ReadKey(ByteReader& reader) {
  PackedFileKey key;
  NIBBLE_ASSIGN_OR_RETURN(key.layout, ReadName(reader, "the layout"));
  NIBBLE_ASSIGN_OR_RETURN(key.layout_version, reader.Read<uint32_t>("the layout's version"));
  NIBBLE_ASSIGN_OR_RETURN(key.source.size_bytes, reader.Read<uint64_t>("the model's size"));
  NIBBLE_ASSIGN_OR_RETURN(key.source.modified_ns, reader.Read<int64_t>("the model's time"));
  NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> digest,
                          reader.Take(key.source.digest.size(), "the model's digest"));
  std::copy(digest.begin(), digest.end(), key.source.digest.begin());
  return key;
}

// Sections lie one after another, so none can overlap or lie outside: there is one offset that each
// may have.
absl::StatusOr<PackedSection> ReadSection(ByteReader& reader, absl::Span<const uint8_t> bytes,
                                          uint64_t& end) {
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t offset, reader.Read<uint64_t>("a section's offset"));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t size, reader.Read<uint64_t>("a section's size"));
  PackedSection section;
  NIBBLE_ASSIGN_OR_RETURN(section.checksum, reader.Read<uint64_t>("a section's checksum"));
  if (offset != end) {
    return absl::DataLossError(
        absl::StrCat("has a section at byte ", offset, ", needed it at ", end));
  }
  if (offset > bytes.size() || size > bytes.size() - offset) {
    return absl::DataLossError(absl::StrCat("has a section of ", size, " bytes at byte ", offset,
                                            ", the file has ", bytes.size()));
  }
  section.bytes = bytes.subspan(offset, size);
  end = Aligned(offset + size);
  return section;
}

absl::StatusOr<PackedRecord> ReadRecord(ByteReader& reader, absl::Span<const uint8_t> bytes,
                                        uint64_t& end) {
  PackedRecord record;
  NIBBLE_ASSIGN_OR_RETURN(record.name, ReadName(reader, "a matrix's name"));
  NIBBLE_ASSIGN_OR_RETURN(record.header,
                          ReadBounded(reader, kMaxPackedHeader, "a matrix's header"));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t num_sections,
                          reader.Read<uint64_t>("a matrix's number of sections"));
  if (num_sections > kMaxPackedSections) {
    return absl::DataLossError(absl::StrCat("matrix '", record.name, "' claims ", num_sections,
                                            " sections, at most ", kMaxPackedSections,
                                            " are read"));
  }
  for (uint64_t i = 0; i < num_sections; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const PackedSection section, ReadSection(reader, bytes, end));
    record.sections.push_back(section);
  }
  return record;
}

}  // namespace

absl::Status PackedFile::ReadTable(absl::Span<const uint8_t> bytes,
                                   absl::Span<const uint8_t> table) {
  ByteReader reader(table);
  NIBBLE_ASSIGN_OR_RETURN(key_, ReadKey(reader));
  NIBBLE_ASSIGN_OR_RETURN(const uint64_t count, reader.Read<uint64_t>("the number of matrices"));
  if (count > kMaxPackedRecords) {
    return absl::DataLossError(
        absl::StrCat("claims ", count, " matrices, at most ", kMaxPackedRecords, " are read"));
  }
  uint64_t end = Aligned(sizeof(PackedHeader) + table.size());
  for (uint64_t i = 0; i < count; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(PackedRecord record, ReadRecord(reader, bytes, end));
    records_.push_back(std::move(record));
  }
  if (reader.remaining() != 0 || end != bytes.size()) {
    return absl::DataLossError(absl::StrCat(
        "has ", reader.remaining(), " bytes after its last matrix in the table, and ends at ",
        bytes.size(), ", needed ", end));
  }
  const auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
  std::sort(records_.begin(), records_.end(), by_name);
  const auto twice =
      std::adjacent_find(records_.begin(), records_.end(),
                         [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != records_.end()) {
    return absl::DataLossError(absl::StrCat("has matrix '", twice->name, "' twice"));
  }
  return absl::OkStatus();
}

absl::Status PackedFile::ReadAll(absl::Span<const uint8_t> bytes) {
  PackedHeader header;
  if (bytes.size() < sizeof(header)) {
    return absl::DataLossError(absl::StrCat("has ", bytes.size(), " bytes, too few for a header"));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  NIBBLE_RETURN_IF_ERROR(CheckHeader(header, bytes.size()));
  const auto table = bytes.subspan(sizeof(header), header.table_bytes);
  if (TableChecksum(header, table) != header.checksum) {
    return absl::DataLossError("has a damaged table: its checksum differs");
  }
  return ReadTable(bytes, table);
}

absl::StatusOr<PackedFile> PackedFile::Parse(absl::Span<const uint8_t> bytes,
                                             absl::string_view name) {
  PackedFile file;
  if (absl::Status status = file.ReadAll(bytes); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  }
  return file;
}

absl::StatusOr<PackedFile> PackedFile::Open(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(MappedFile opened, MappedFile::Open(path));
  auto mapping = std::make_shared<MappedFile>(std::move(opened));
  mapping->WillNeed();
  NIBBLE_ASSIGN_OR_RETURN(PackedFile file, Parse(mapping->bytes(), path));
  file.owner_ = std::move(mapping);
  return file;
}

void PackedFile::Drop(const PackedSection& section) const {
  if (owner_ != nullptr && !section.bytes.empty()) owner_->Drop(section.bytes);
}

const PackedRecord* PackedFile::Find(absl::string_view name) const {
  const auto at = std::lower_bound(
      records_.begin(), records_.end(), name,
      [](const PackedRecord& record, absl::string_view n) { return record.name < n; });
  return at != records_.end() && at->name == name ? &*at : nullptr;
}

absl::Status VerifySection(const PackedRecord& record, size_t section) {
  const PackedSection& found = record.sections[section];
  if (Checksum(found.bytes) == found.checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("matrix '", record.name, "' is damaged: the checksum of ",
                                          found.bytes.size(), " bytes differs"));
}

}  // namespace nibble
