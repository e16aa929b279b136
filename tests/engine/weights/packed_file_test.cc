// Files of packed weights: what is written comes back; anything else in them is a Status, never a
// crash and never believed.
#include "engine/weights/packed_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "engine/base/hash.h"
#include "engine/weights/packed_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<uint8_t>;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

PackedFileKey Key() {
  PackedFileKey key;
  key.layout = "cpu";
  key.layout_version = 7;
  key.source.size_bytes = 1234;
  key.source.modified_ns = -5;
  for (size_t i = 0; i < key.source.digest.size(); ++i) key.source.digest[i] = uint8_t(i * 3);
  return key;
}

// Two matrices: sections of odd sizes, and an empty one.
struct Content {
  Bytes first = Bytes(100, 0x11), second = Bytes(64, 0x22), third = Bytes(1, 0x33);
  std::vector<PackedRecord> Records() const {
    const auto section = [](const Bytes& bytes) {
      return PackedSection{.bytes = bytes, .checksum = Checksum(bytes)};
    };
    return {{"b.weight", std::string("\0header", 7), {section(first), section(second)}},
            {"a.weight", "", {section(third), section(Bytes())}}};
  }
};

std::string TempPath(const std::string& name) {
  const std::string path =
      ::testing::TempDir() + "/packed_" + std::to_string(getpid()) + "_" + name;
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".partial");
  return path;
}

Bytes ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

Bytes Written() {
  const std::string path = TempPath("written.packed");
  EXPECT_TRUE(WritePackedFile(path, Key(), Content().Records()).ok());
  return ReadFile(path);
}

// With the table's checksum made right again: what a hostile writer would do.
Bytes Sealed(Bytes bytes) {
  PackedHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.table_bytes > bytes.size() - sizeof(header)) return bytes;
  header.checksum = 0;
  header.checksum = HeaderChecksum(
      header, absl::MakeConstSpan(bytes).subspan(sizeof(header), header.table_bytes));
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

absl::Status ParseStatus(const Bytes& bytes) { return PackedFile::Parse(bytes, "f").status(); }

TEST(PackedFileTest, WhatIsWrittenComesBack) {
  const std::string path = TempPath("round_trip.packed");
  const Content content;
  ASSERT_TRUE(WritePackedFile(path, Key(), content.Records()).ok());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  const absl::StatusOr<PackedFile> file = PackedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->key(), Key());
  ASSERT_EQ(file->records().size(), 2u);
  const PackedRecord* record = file->Find("b.weight");
  ASSERT_NE(record, nullptr);
  EXPECT_EQ(record->header, std::string("\0header", 7));
  EXPECT_EQ(Bytes(record->sections[0].bytes.begin(), record->sections[0].bytes.end()),
            content.first);
  for (const PackedRecord& each : file->records()) {
    for (size_t i = 0; i < each.sections.size(); ++i) {
      EXPECT_TRUE(VerifySection(each, i).ok());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(each.sections[i].bytes.data()) % 64, 0u);
    }
  }
  EXPECT_EQ(file->Find("c.weight"), nullptr);
  EXPECT_NE(file->owner(), nullptr);
}

// Whoever holds the owner may go on reading: the file's object, its name and its content in the
// folder do not matter.
TEST(PackedFileTest, TheOwnerKeepsTheBytesWhenTheFileIsReplaced) {
  const std::string path = TempPath("replaced.packed");
  ASSERT_TRUE(WritePackedFile(path, Key(), Content().Records()).ok());
  std::shared_ptr<const void> owner;
  absl::Span<const uint8_t> bytes;
  {
    const PackedFile file = PackedFile::Open(path).value();
    owner = file.owner();
    bytes = file.Find("b.weight")->sections[0].bytes;
  }
  Content other;
  other.first.assign(100, 0x44);
  ASSERT_TRUE(WritePackedFile(path, Key(), other.Records()).ok());
  EXPECT_EQ(Bytes(bytes.begin(), bytes.end()), Content().first);
  EXPECT_EQ(PackedFile::Open(path).value().Find("b.weight")->sections[0].bytes[0], 0x44);
}

TEST(PackedFileTest, EveryFlippedBitOfTheFileIsNoticed) {
  const Bytes good = Written();
  ASSERT_TRUE(ParseStatus(good).ok());
  int unnoticed = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    Bytes bad = good;
    bad[at] ^= 1 << at % 8;
    const absl::StatusOr<PackedFile> file = PackedFile::Parse(bad, "f");
    bool noticed = !file.ok();
    for (size_t r = 0; !noticed && r < file->records().size(); ++r) {
      for (size_t s = 0; s < file->records()[r].sections.size(); ++s) {
        noticed = noticed || !VerifySection(file->records()[r], s).ok();
      }
    }
    unnoticed += noticed ? 0 : 1;
  }
  const int padding = 4 * 64 - (100 + 64 + 1);  // three sections in four times 64 bytes
  EXPECT_LE(unnoticed, padding + 63) << "only the zeros between sections mean nothing";
}

TEST(PackedFileTest, EveryTruncationIsNoticed) {
  const Bytes good = Written();
  for (size_t size = 0; size < good.size(); ++size) {
    const absl::Status status = ParseStatus(Bytes(good.begin(), good.begin() + size));
    EXPECT_EQ(status.code(), kDataLoss) << size;
  }
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(ParseStatus(longer).code(), kDataLoss);
}

TEST(PackedFileTest, ForeignFilesSayWhatTheyAre) {
  const Bytes good = Written();
  Bytes bytes = good;
  std::swap(bytes[8], bytes[11]);
  std::swap(bytes[9], bytes[10]);
  EXPECT_EQ(ParseStatus(bytes).message(), "f: was written by a machine of the other byte order");
  bytes = good;
  bytes[12] = 2;
  EXPECT_EQ(ParseStatus(bytes).message(), "f: is of format version 2, this program reads 1");
  bytes = good;
  bytes[0] = 'G';
  EXPECT_EQ(ParseStatus(bytes).message(), "f: is not a file of packed weights");
}

// Sixteen-byte steps of every field of the table, with hostile numbers and a right checksum.
TEST(PackedFileTest, HostileNumbersWithARightChecksumAreRefusedOrHarmless) {
  const Bytes good = Written();
  PackedHeader header;
  std::memcpy(&header, good.data(), sizeof(header));
  const uint64_t numbers[] = {0,
                              1,
                              63,
                              64,
                              65,
                              255,
                              1 << 16,
                              good.size(),
                              good.size() + 1,
                              uint64_t{1} << 31,
                              uint64_t{1} << 32,
                              uint64_t{1} << 63,
                              ~uint64_t{0},
                              ~uint64_t{0} - 63,
                              uint64_t{0} - good.size()};
  int refused = 0;
  for (size_t at = 16; at + 8 <= sizeof(header) + header.table_bytes; ++at) {
    for (const uint64_t number : numbers) {
      Bytes bytes = good;
      std::memcpy(bytes.data() + at, &number, sizeof(number));
      const absl::StatusOr<PackedFile> file = PackedFile::Parse(Sealed(std::move(bytes)), "f");
      refused += file.ok() ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(PackedFileTest, RandomMutationsNeverReachOutsideTheFile) {
  const Bytes good = Written();
  const uint32_t seed = 20;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20000; ++round) {
    // Exactly as large as the content: the sanitizers see a read past it.
    Bytes bytes = good;
    for (uint32_t i = 0; i <= random() % 4; ++i) bytes[random() % bytes.size()] = uint8_t(random());
    const Bytes sealed = Sealed(std::move(bytes));
    const absl::StatusOr<PackedFile> file = PackedFile::Parse(sealed, "f");
    if (!file.ok()) continue;
    for (const PackedRecord& record : file->records()) {
      for (size_t i = 0; i < record.sections.size(); ++i) (void)VerifySection(record, i);
    }
  }
}

TEST(PackedFileTest, CountsAndNamesHaveLimits) {
  const Content content;  // the records point into it
  std::vector<PackedRecord> records = content.Records();
  const std::string path = TempPath("limits.packed");
  const auto status_of = [&] {
    EXPECT_TRUE(WritePackedFile(path, Key(), records).ok());
    return std::string(PackedFile::Open(path).status().message());
  };
  records[0].name = "a.weight";
  EXPECT_THAT(status_of(), HasSubstr("has matrix 'a.weight' twice"));
  records[0].name = std::string(257, 'x');
  EXPECT_THAT(status_of(), HasSubstr("a matrix's name has 257 bytes, at most 256"));
  records[0].name = "a\n";
  EXPECT_THAT(status_of(), HasSubstr("needed printable ASCII"));
  records[0].name = "b";
  records[0].header = std::string(257, 'x');
  EXPECT_THAT(status_of(), HasSubstr("a matrix's header has 257 bytes, at most 256"));
  records[0].header.clear();
  records[0].sections.assign(9, {});
  for (PackedSection& section : records[0].sections) section.checksum = Checksum({});
  EXPECT_THAT(status_of(), HasSubstr("matrix 'b' claims 9 sections, at most 8"));
}

TEST(WritePackedFileTest, ReplacesOursAndNothingElse) {
  const std::string model = TempPath("model.gguf");
  std::ofstream(model) << "GGUF and more";
  const absl::Status status = WritePackedFile(model, Key(), Content().Records());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(std::filesystem::file_size(model), 13u);
  const std::string damaged = TempPath("damaged.packed");  // by its name
  std::ofstream(damaged) << "garbage of a broken disk";
  EXPECT_TRUE(WritePackedFile(damaged, Key(), Content().Records()).ok());
  const std::string named = TempPath("cache");  // by its content
  EXPECT_TRUE(WritePackedFile(named, Key(), Content().Records()).ok());
  EXPECT_TRUE(WritePackedFile(named, Key(), Content().Records()).ok());
}

TEST(WritePackedFileTest, OneProcessWritesAtATimeAndACrashLeavesNothingThatMatters) {
  const std::string path = TempPath("locked.packed");
  std::ofstream(path + ".partial") << "half of a file, left by a crash";
  const int fd = open((path + ".partial").c_str(), O_RDWR);
  ASSERT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  const absl::Status busy = WritePackedFile(path, Key(), Content().Records());
  EXPECT_EQ(busy.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(busy.message()), HasSubstr("another process is writing it"));
  EXPECT_TRUE(std::filesystem::exists(path + ".partial")) << "it is the other one's";
  close(fd);
  ASSERT_TRUE(WritePackedFile(path, Key(), Content().Records()).ok());
  EXPECT_TRUE(PackedFile::Open(path).ok());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST(WritePackedFileTest, FoldersThatCannotBeWrittenAndLinksAreAStatus) {
  EXPECT_FALSE(WritePackedFile("/no/such/folder/x.packed", Key(), {}).ok());
  const std::string path = TempPath("linked.packed");
  const std::string victim = TempPath("victim");
  std::ofstream(victim) << "precious";
  ASSERT_EQ(symlink(victim.c_str(), (path + ".partial").c_str()), 0);
  EXPECT_EQ(WritePackedFile(path, Key(), Content().Records()).code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(std::filesystem::file_size(victim), 8u);
}

TEST(PackedFileTest, WhatIsNoFileIsAStatus) {
  EXPECT_EQ(PackedFile::Open(TempPath("absent")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PackedFile::Open(::testing::TempDir()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble
