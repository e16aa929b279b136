#include "engine/weights/source_identity.h"

#include <unistd.h>

#include <filesystem>

#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

using testing::GgufWriter;
using testing::TinyModel;

SourceIdentity IdentityIn(const std::vector<uint8_t>& bytes) {
  return IdentityOf(GgufFile::Parse(bytes, "m.gguf").value()).value();
}

TEST(SourceIdentityTest, TheSameBytesAreTheSameModelWhateverTheName) {
  const std::vector<uint8_t> bytes = testing::TinyLlamaGguf(1);
  EXPECT_EQ(IdentityIn(bytes), IdentityOf(GgufFile::Parse(bytes, "other.gguf").value()).value());
  EXPECT_EQ(IdentityIn(bytes).size_bytes, bytes.size());
}

TEST(SourceIdentityTest, MetadataAndEveryTensorAreLookedAt) {
  const SourceIdentity before = IdentityIn(testing::TinyLlamaGguf(1));
  GgufWriter renamed = TinyModel({});
  renamed.String("general.name", "tiny llamb");
  EXPECT_NE(IdentityIn(renamed.Build()).digest, before.digest);
  const size_t num_tensors = TinyModel({}).tensors.size();
  for (size_t i = 0; i < num_tensors; ++i) {
    GgufWriter tuned = TinyModel({});
    tuned.tensors[i].data[0] ^= 1;
    EXPECT_NE(IdentityIn(tuned.Build()).digest, before.digest) << tuned.tensors[i].name;
    EXPECT_EQ(IdentityIn(tuned.Build()).size_bytes, before.size_bytes);
  }
}

TEST(SourceIdentityTest, AFileHasATimeAndOneThatBecameShorterIsDataLoss) {
  const std::string path = testing::WriteTempFile("identity.gguf", testing::TinyLlamaGguf(1));
  const GgufFile file = GgufFile::Open(path).value();
  const SourceIdentity before = IdentityOf(file).value();
  EXPECT_GT(before.modified_ns, 0);
  std::filesystem::last_write_time(
      path, std::filesystem::last_write_time(path) + std::chrono::seconds(2));
  const SourceIdentity later = IdentityOf(file).value();
  EXPECT_EQ(later.digest, before.digest);
  EXPECT_EQ(later.modified_ns - before.modified_ns, 2'000'000'000);
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(file.size_bytes() - 4096)), 0);
  EXPECT_EQ(IdentityOf(file).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace nibble
