#include "engine/weights/safetensors_file.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using testing::SafetensorsWriter;
using testing::WriteTempFile;

SafetensorsWriter Valid() {
  SafetensorsWriter writer;
  writer.metadata = {{"format", "pt"}};
  writer.Add("a.weight", "F32", {2, 3}, std::vector<uint8_t>(24, 1));
  writer.Add("b", "BF16", {4}, {0, 1, 2, 3, 4, 5, 6, 7});
  writer.Add("scalar", "I64", {}, std::vector<uint8_t>(8));
  writer.Add("nothing", "U8", {0, 7}, {});
  return writer;
}

std::vector<uint8_t> Bytes(const SafetensorsFile& file, absl::string_view name) {
  const SafetensorsTensor* tensor = file.Find(name);
  std::vector<uint8_t> out(static_cast<size_t>(tensor->size_bytes));
  EXPECT_TRUE(file.Read(*tensor, 0, absl::MakeSpan(out)).ok());
  return out;
}

TEST(SafetensorsFile, TensorsHaveTheirTypeShapeAndBytes) {
  const std::vector<uint8_t> bytes = Valid().Build();
  const SafetensorsFile file = SafetensorsFile::Parse(bytes, "m.safetensors").value();
  ASSERT_EQ(file.tensors().size(), 4u);
  const SafetensorsTensor* a = file.Find("a.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(TypeName(a->type), "F32");
  EXPECT_THAT(a->shape, ElementsAre(2, 3));
  EXPECT_EQ(a->num_elements, 6);
  EXPECT_EQ(Bytes(file, "a.weight"), std::vector<uint8_t>(24, 1));
  EXPECT_EQ(Bytes(file, "b"), (std::vector<uint8_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(file.Find("scalar")->num_elements, 1);
  EXPECT_EQ(file.Find("nothing")->num_elements, 0);
  EXPECT_EQ(file.Find("absent"), nullptr);
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("format", "pt")));
}

TEST(SafetensorsFile, APartOfATensorIsRead) {
  const std::vector<uint8_t> bytes = Valid().Build();
  const SafetensorsFile file = SafetensorsFile::Parse(bytes, "m.safetensors").value();
  std::vector<uint8_t> out(3);
  ASSERT_TRUE(file.Read(*file.Find("b"), 4, absl::MakeSpan(out)).ok());
  EXPECT_THAT(out, ElementsAre(4, 5, 6));
}

TEST(SafetensorsFile, TheOrderOfTheHeaderIsNotThatOfTheData) {
  SafetensorsWriter writer;
  writer.Add("second", "U8", {1}, {});
  writer.tensors[0].json = R"({"data_offsets":[2,3],"shape":[1],"dtype":"U8"})";
  writer.Add("first", "U8", {2}, {7, 8});
  writer.trailing = {9};
  const std::vector<uint8_t> bytes = writer.Build();
  const SafetensorsFile file = SafetensorsFile::Parse(bytes, "m.safetensors").value();
  EXPECT_EQ(file.tensors()[0].name, "first");
  EXPECT_EQ(Bytes(file, "second"), std::vector<uint8_t>{9});
}

TEST(SafetensorsFile, EveryTypeOfTheFormatHasItsWidth) {
  for (const auto& [type, bits] : std::vector<std::pair<std::string, int>>{
           {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},
           {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},     {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
           {"I16", 16}, {"U16", 16},    {"F8_E5M2FNUZ", 8}, {"F16", 16},    {"BF16", 16},
           {"I32", 32}, {"U32", 32},    {"F32", 32},        {"C64", 64},    {"F64", 64},
           {"I64", 64}, {"U64", 64}}) {
    SafetensorsWriter writer;
    writer.Add("t", type, {8, 2}, std::vector<uint8_t>(static_cast<size_t>(2 * bits)));
    const std::vector<uint8_t> bytes = writer.Build();
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(bytes, "m");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(TypeName(file->tensors()[0].type), type);
  }
}

TEST(SafetensorsFile, TheHeaderMayBePaddedWithSpaces) {
  SafetensorsWriter writer = Valid();
  writer.header = writer.Json() + "   \n ";
  EXPECT_TRUE(SafetensorsFile::Parse(writer.Build(), "m").ok());
}

TEST(SafetensorsFile, AFileIsMappedReadAndItsEndMissed) {
  const std::vector<uint8_t> bytes = Valid().Build();
  const std::string path = WriteTempFile("whole.safetensors", bytes);
  const SafetensorsFile file = SafetensorsFile::Open(path).value();
  EXPECT_EQ(Bytes(file, "b"), (std::vector<uint8_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(file.size_bytes(), static_cast<int64_t>(bytes.size()));
  EXPECT_GT(file.ModifiedNs().value(), 0);
  // Truncated under the mapping: an error, not a signal.
  WriteTempFile("whole.safetensors", absl::MakeConstSpan(bytes).first(20));
  std::vector<uint8_t> out(8);
  const absl::Status status = file.Read(*file.Find("b"), 0, absl::MakeSpan(out));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("was it changed since?"));
}

TEST(SafetensorsFile, BeginsTellsOneFromItsFirstBytes) {
  const std::vector<uint8_t> bytes = Valid().Build();
  EXPECT_TRUE(SafetensorsFile::Begins(bytes));
  EXPECT_FALSE(SafetensorsFile::Begins(absl::MakeConstSpan(bytes).first(8)));
  const std::string gguf = "GGUF\x03\0\0\0{\0\0\0";
  EXPECT_FALSE(SafetensorsFile::Begins(std::vector<uint8_t>(gguf.begin(), gguf.end())));
}

}  // namespace
}  // namespace nibble
