// A file that keeps packed weights, so that a second start maps them instead of converting and
// packing the model file again. It is a cache: whoever finds anything wrong with it makes a new
// one.
//
//   offset  size
//   0       8     "nibblepk"
//   8       4     0x01020304 in the writer's byte order, which is that of all numbers here
//   12      4     version of this format: 1
//   16      8     size of the file
//   24      8     size of the table
//   32      8     checksum of the header, this field as 0, followed by the table
//   40      24    zeros
//   64            the table. A string is a u64 length and its bytes.
//                   string layout, u32 layout's version        what packed it
//                   (Backend::packed_layout) u64 size, i64 time, 32 bytes of digest     of which
//                   model file (source_identity.h) u64 number of records, then each:
//                     string name, string header               a matrix; PackedBytes::header
//                     u64 number of sections, then each:
//                       u64 offset, u64 size, u64 checksum
//           ...   the sections, in the table's order, each at the next multiple of 64, zeros
//           between
//                 and after them up to one
//
// Checksums are Checksum() of base/hash.h: they notice damage, not malice. Whoever may write this
// file may as well write the model beside it; but nothing in it makes a reader crash.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/weights/source_identity.h"

namespace nibble {

inline constexpr uint64_t kMaxPackedRecords = 1 << 16;  // as kMaxGgufTensors
inline constexpr uint64_t kMaxPackedName = 256;         // bytes of a name, printable ASCII
inline constexpr uint64_t kMaxPackedHeader = 256;       // bytes
inline constexpr uint64_t kMaxPackedSections = 8;
inline constexpr uint64_t kPackedAlignment = 64;  // a cache line, and an AVX-512 register

// What a file is good for: packed bytes of this source under this layout.
struct PackedFileKey {
  std::string layout;
  uint32_t layout_version = 0;
  SourceIdentity source;

  bool operator==(const PackedFileKey&) const = default;
};

struct PackedSection {
  absl::Span<const uint8_t> bytes;
  uint64_t checksum = 0;
};
struct PackedRecord {
  std::string name;
  std::string header;
  std::vector<PackedSection> sections;
};

class MappedFile;

class PackedFile {
 public:
  // Maps the file and checks all but the sections' content. NOT_FOUND, PERMISSION_DENIED;
  // UNIMPLEMENTED for another version or byte order; DATA_LOSS says what is wrong. The mapping is
  // the file: who truncates it in place ends its readers with SIGBUS. WritePackedFile never does.
  static absl::StatusOr<PackedFile> Open(const std::string& path);
  // The same over bytes in memory, which must outlive the object (tests, fuzzing).
  static absl::StatusOr<PackedFile> Parse(absl::Span<const uint8_t> bytes, absl::string_view name);

  const PackedFileKey& key() const { return key_; }
  absl::Span<const PackedRecord> records() const { return records_; }
  const PackedRecord* Find(absl::string_view name) const;  // null: absent
  // Keeps the mapping, and with it every section, for whoever holds it; null from Parse.
  std::shared_ptr<const void> owner() const { return owner_; }
  // A section has been copied: its pages need not count as this process's memory.
  void Drop(const PackedSection& section) const;

 private:
  absl::Status ReadAll(absl::Span<const uint8_t> bytes);
  absl::Status ReadTable(absl::Span<const uint8_t> bytes, absl::Span<const uint8_t> table);

  PackedFileKey key_;
  std::vector<PackedRecord> records_;  // by name
  std::shared_ptr<const MappedFile> owner_;
};

// DATA_LOSS names the matrix whose bytes are not those that were written. Reads all of the section.
absl::Status VerifySection(const PackedRecord& record, size_t section);

// Writes the file in whole or not at all: to `path`.partial, synced, then renamed over `path`,
// which its readers keep as it was. Checksums must be set. UNAVAILABLE while another process writes
// it, or for an I/O error; PERMISSION_DENIED; RESOURCE_EXHAUSTED for a full disk;
// FAILED_PRECONDITION where `path` is something else than packed weights and is not named *.packed
// either. What a crash leaves of the partial file is overwritten next time.
absl::Status WritePackedFile(const std::string& path, const PackedFileKey& key,
                             absl::Span<const PackedRecord> records);

}  // namespace nibble
