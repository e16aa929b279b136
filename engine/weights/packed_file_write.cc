// WritePackedFile.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/weights/packed_file.h"
#include "engine/weights/packed_layout.h"
#include "engine/weights/partial_file.h"

namespace nibble {
namespace {

template <typename T>
void Append(T value, std::vector<uint8_t>& out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}

void AppendString(absl::string_view text, std::vector<uint8_t>& out) {
  Append<uint64_t>(text.size(), out);
  out.insert(out.end(), text.begin(), text.end());
}

// The table, with sections from `end` on; leaves `end` where the file ends. Its size does not
// depend on the offsets, so a first call with any `end` measures it.
std::vector<uint8_t> MakeTable(const PackedFileKey& key, absl::Span<const PackedRecord> records,
                               uint64_t& end) {
  std::vector<uint8_t> table;
  AppendString(key.layout, table);
  Append(key.layout_version, table);
  Append(key.source.size_bytes, table);
  Append(key.source.modified_ns, table);
  table.insert(table.end(), key.source.digest.begin(), key.source.digest.end());
  Append<uint64_t>(records.size(), table);
  for (const PackedRecord& record : records) {
    AppendString(record.name, table);
    AppendString(record.header, table);
    Append<uint64_t>(record.sections.size(), table);
    for (const PackedSection& section : record.sections) {
      Append<uint64_t>(end, table);
      Append<uint64_t>(section.bytes.size(), table);
      Append<uint64_t>(section.checksum, table);
      end = Aligned(end + section.bytes.size());
    }
  }
  return table;
}

// Header and table, padded to where the sections begin.
std::vector<uint8_t> MakePreamble(const PackedFileKey& key, absl::Span<const PackedRecord> records,
                                  uint64_t& file_bytes) {
  uint64_t ignored = 0;
  const uint64_t table_bytes = MakeTable(key, records, ignored).size();
  file_bytes = Aligned(sizeof(PackedHeader) + table_bytes);
  const std::vector<uint8_t> table = MakeTable(key, records, file_bytes);
  PackedHeader header;
  std::memcpy(header.magic, kPackedMagic, sizeof(header.magic));
  header.byte_order = kByteOrder;
  header.version = kPackedVersion;
  header.file_bytes = file_bytes;
  header.table_bytes = table.size();
  header.checksum = HeaderChecksum(header, table);
  std::vector<uint8_t> preamble(Aligned(sizeof(header) + table.size()));
  std::memcpy(preamble.data(), &header, sizeof(header));
  std::memcpy(preamble.data() + sizeof(header), table.data(), table.size());
  return preamble;
}

// A flag's slip must not cost anybody a file: replaced is what was ours, by its content or its
// name.
absl::Status CheckReplaceable(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return errno == ENOENT ? absl::OkStatus() : FileError(path, "looking at what is there", errno);
  }
  char magic[sizeof(PackedHeader::magic)] = {};
  const ssize_t n = read(fd, magic, sizeof(magic));
  close(fd);
  if (n == 0 || absl::EndsWith(path, ".packed")) return absl::OkStatus();
  if (n == sizeof(magic) && std::memcmp(magic, kPackedMagic, sizeof(magic)) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": exists and is not a file of packed weights; name another file"));
}

}  // namespace

absl::Status WritePackedFile(const std::string& path, const PackedFileKey& key,
                             absl::Span<const PackedRecord> records) {
  constexpr uint8_t kZeros[kPackedAlignment] = {};
  uint64_t file_bytes = 0;
  const std::vector<uint8_t> preamble = MakePreamble(key, records, file_bytes);
  NIBBLE_RETURN_IF_ERROR(CheckReplaceable(path));
  PartialFile file(path);
  NIBBLE_RETURN_IF_ERROR(file.Create());
  NIBBLE_RETURN_IF_ERROR(file.Reserve(file_bytes));
  NIBBLE_RETURN_IF_ERROR(file.Write(preamble));
  for (const PackedRecord& record : records) {
    for (const PackedSection& section : record.sections) {
      const uint64_t size = section.bytes.size();
      NIBBLE_RETURN_IF_ERROR(file.Write(section.bytes));
      NIBBLE_RETURN_IF_ERROR(file.Write(absl::MakeConstSpan(kZeros, Aligned(size) - size)));
    }
  }
  return file.Publish();
}

}  // namespace nibble
