// One hand-made file for every check of the safetensors reader, each valid but for one thing that
// the error names; then mutants of a valid one, of which none may crash, go untyped, or allocate
// more than its size justifies.
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/weights/safetensors_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/weights/gguf_writer.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsWriter;
using ::testing::StartsWith;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();

SafetensorsWriter Valid() {
  SafetensorsWriter writer;
  writer.metadata = {{"format", "pt"}};
  writer.Add("first", "F32", {2, 3}, std::vector<uint8_t>(24));
  writer.Add("second", "BF16", {4}, std::vector<uint8_t>(8));
  return writer;
}

void ExpectRefused(absl::Span<const uint8_t> bytes, absl::string_view part,
                   absl::StatusCode code = kDataLoss) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  const absl::Status status = SafetensorsFile::Parse(exact, "m.safetensors").status();
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(part)));
  EXPECT_THAT(std::string(status.message()), StartsWith("m.safetensors: "));
}

// The valid file with the first tensor's entry replaced.
void ExpectEntryRefused(absl::string_view entry, absl::string_view part,
                        absl::StatusCode code = kDataLoss) {
  SafetensorsWriter writer = Valid();
  writer.tensors[0].json = std::string(entry);
  SCOPED_TRACE(std::string(entry));
  ExpectRefused(writer.Build(), part, code);
}

void ExpectHeaderRefused(absl::string_view header, absl::string_view part) {
  SafetensorsWriter writer = Valid();
  writer.header = std::string(header);
  SCOPED_TRACE(std::string(header.substr(0, 80)));
  ExpectRefused(writer.Build(), part);
}

TEST(SafetensorsHostile, TheFileTheOthersSpoilIsValid) {
  const std::vector<uint8_t> bytes = Valid().Build();
  EXPECT_TRUE(SafetensorsFile::Parse(bytes, "m").ok());
}

TEST(SafetensorsHostile, LengthsOfTheHeaderThatAreNone) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1} << 20, kMaxSafetensorsHeader,
                              kMaxSafetensorsHeader + 1, uint64_t{1} << 63, kHuge - 7, kHuge}) {
    SafetensorsWriter writer = Valid();
    writer.header_size = size;
    ExpectRefused(writer.Build(), "header");
  }
  ExpectRefused({}, "inside the header's length");
  ExpectRefused(std::vector<uint8_t>(7), "inside the header's length");
}

TEST(SafetensorsHostile, HeadersThatAreNotOneObject) {
  ExpectHeaderRefused(" {}", "does not begin with '{'");
  ExpectHeaderRefused("[]", "does not begin with '{'");
  ExpectHeaderRefused("{", "is not JSON");
  ExpectHeaderRefused("{}{}", "is not JSON");
  ExpectHeaderRefused(absl::string_view("{}\0", 3), "is not JSON");
  ExpectHeaderRefused("{\"a\":\"\xFF\"}", "is not JSON");
  ExpectHeaderRefused("{'a':1}", "is not JSON");
  ExpectHeaderRefused("{\"a\":NaN}", "is not JSON");
  ExpectHeaderRefused("{\"a\":1e999999}", "is not JSON");
  ExpectHeaderRefused("{\"a\":1}", "holds a number");
  ExpectHeaderRefused("{\"a\":null}", "holds null");
  ExpectHeaderRefused("{\"a\":true}", "holds true or false");
  ExpectHeaderRefused("{\"a\":[]}", "holds an array");
  ExpectHeaderRefused("{}", "tensors need 0 bytes, 32 follow");
}

TEST(SafetensorsHostile, NestingAtAnyDepth) {
  ExpectHeaderRefused(absl::StrCat("{\"a\":", std::string(1 << 20, '[')), "holds an array");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"dtype\":";
  ExpectHeaderRefused(absl::StrCat("{\"a\":", objects), "holds an object");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,24]})", "array");
}

TEST(SafetensorsHostile, NamesThatAreNoneOrTwice) {
  const std::string entry = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  ExpectHeaderRefused(absl::StrCat("{\"a\":", entry, ",\"a\":", entry, "}"), "appears twice");
  ExpectHeaderRefused("{\"__metadata__\":{},\"__metadata__\":{}}", "appears twice");
  ExpectHeaderRefused(absl::StrCat("{\"\":", entry, "}"), "printable ASCII");
  ExpectHeaderRefused(absl::StrCat("{\"a\\nb\":", entry, "}"), "printable ASCII");
  ExpectHeaderRefused(absl::StrCat("{\"", std::string(513, 'n'), "\":", entry, "}"), "1 to 512");
}

TEST(SafetensorsHostile, MetadataThatIsNotStrings) {
  ExpectHeaderRefused("{\"__metadata__\":{\"a\":1}}", "holds a number");
  ExpectHeaderRefused("{\"__metadata__\":{\"a\":{}}}", "holds an object");
  ExpectHeaderRefused("{\"__metadata__\":[]}", "holds an array");
  ExpectHeaderRefused("{\"__metadata__\":{\"a\":\"x\",\"a\":\"y\"}}", "twice");
}

TEST(SafetensorsHostile, EntriesThatLackRepeatOrAddAField) {
  ExpectEntryRefused(R"({"shape":[2,3],"data_offsets":[0,24]})", "lacks one of dtype");
  ExpectEntryRefused(R"({"dtype":"F32","data_offsets":[0,24]})", "lacks one of dtype");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[2,3]})", "lacks one of dtype");
  ExpectEntryRefused(R"({"dtype":"F32","dtype":"F32","shape":[2,3],"data_offsets":[0,24]})",
                     "has dtype twice");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[6],"shape":[2,3],"data_offsets":[0,24]})",
                     "has shape twice");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":"y"})",
                     "has field \"x\"");
}

TEST(SafetensorsHostile, FieldsOfAnotherKind) {
  ExpectEntryRefused(R"({"dtype":1,"shape":[2,3],"data_offsets":[0,24]})", "holds a number");
  ExpectEntryRefused(R"({"dtype":"F32","shape":6,"data_offsets":[0,24]})", "holds a number");
  ExpectEntryRefused(R"({"dtype":"F32","shape":"6","data_offsets":[0,24]})", "holds a string");
  ExpectEntryRefused(R"({"dtype":["F32"],"shape":[6],"data_offsets":[0,24]})", "array");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[-6],"data_offsets":[0,24]})", "negative");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[6.0],"data_offsets":[0,24]})", "whole one");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[6],"data_offsets":[0]})", "1 data_offsets");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24,48]})", "more than 2");
  ExpectEntryRefused(R"({"dtype":"F99","shape":[6],"data_offsets":[0,24]})", "dtype \"F99\"",
                     absl::StatusCode::kUnimplemented);
}

TEST(SafetensorsHostile, ShapesThatOverflowOrDoNotFitTheBytes) {
  ExpectEntryRefused(R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,24]})", "needed 16");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[1000000,1000000,1000000],"data_offsets":[0,24]})",
                     "fit 63");
  ExpectEntryRefused(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,24]})",
                     "fit 63");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,24]})",
                     "fit 63");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,24]})",
                     "2^63");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,24]})",
                     "whole one");
  ExpectEntryRefused(R"({"dtype":"F4","shape":[47],"data_offsets":[0,24]})", "whole bytes");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,24],"data_offsets":[0,24]})",
                     "more than 8 dimensions");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[0],"data_offsets":[0,24]})", "needed 0");
}

TEST(SafetensorsHostile, OffsetsThatLeaveHolesOverlapOrWrap) {
  ExpectEntryRefused(R"({"dtype":"U8","shape":[23],"data_offsets":[0,23]})", "needed 23");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[25],"data_offsets":[0,25]})", "needed 25");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[23],"data_offsets":[1,24]})", "needed 0");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[8],"data_offsets":[24,32]})", "needed 0");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[24],"data_offsets":[24,0]})", "before it begins");
  ExpectEntryRefused(R"({"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,0]})",
                     "before it begins");
  ExpectEntryRefused(
      R"({"dtype":"U8","shape":[0],"data_offsets":[9223372036854775807,9223372036854775807]})",
      "needed");
}

TEST(SafetensorsHostile, DataThatEndsEarlyOrLate) {
  const std::vector<uint8_t> whole = Valid().Build();
  for (size_t size = 0; size < whole.size(); ++size) {
    ExpectRefused(absl::MakeConstSpan(whole).first(size), "truncated?");
  }
  SafetensorsWriter writer = Valid();
  writer.trailing = {0};
  ExpectRefused(writer.Build(), "tensors need 32 bytes, 33 follow the header");
}

TEST(SafetensorsHostile, MutantsAreTypedErrorsOrValid) {
  const std::vector<uint8_t> whole = Valid().Build();
  const size_t header = whole.size() - 32;
  constexpr uint32_t kSeed = 20240607;
  std::mt19937 random(kSeed);
  int refused = 0, mutants = 0;
  const auto survive = [&](const std::vector<uint8_t>& mutant) {
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Parse(mutant, "m");
    ++mutants;
    if (file.ok()) return;
    ++refused;
    EXPECT_TRUE(absl::IsDataLoss(file.status()) || absl::IsUnimplemented(file.status()))
        << "seed " << kSeed << ": " << file.status();
  };
  for (size_t at = 0; at < header; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::vector<uint8_t> mutant = whole;
      mutant[at] ^= static_cast<uint8_t>(1 << bit);
      survive(mutant);
    }
  }
  for (int i = 0; i < 4000; ++i) {
    std::vector<uint8_t> mutant = whole;
    for (uint32_t c = 1 + random() % 6; c > 0; --c) {
      mutant[random() % header] = static_cast<uint8_t>(random());
    }
    survive(mutant);
  }
  EXPECT_GT(refused, mutants / 2);
  RecordProperty("mutants", mutants);
  RecordProperty("refused", refused);
}

}  // namespace
}  // namespace nibble
