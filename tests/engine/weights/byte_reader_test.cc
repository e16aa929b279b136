#include "engine/weights/byte_reader.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

TEST(ByteReader, ReadsLittleEndianNumbersInOrder) {
  const std::vector<uint8_t> bytes = {0x34, 0x12, 0xFF, 0xFF, 0xFF, 0xFF, 7};
  ByteReader reader(bytes);
  EXPECT_EQ(*reader.Read<uint16_t>("a"), 0x1234);
  EXPECT_EQ(*reader.Read<int32_t>("b"), -1);
  EXPECT_EQ(*reader.Read<uint8_t>("c"), 7);
  EXPECT_EQ(reader.position(), 7u);
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(ByteReader, SaysWhatItWasReadingWhenTheBytesEnd) {
  const std::vector<uint8_t> bytes = {1, 2, 3};
  ByteReader reader(bytes);
  const absl::Status status = reader.Read<uint32_t>("the version").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ends at byte 3, inside the version"));
  EXPECT_EQ(reader.position(), 0u) << "a read that did not happen must not move the cursor";
}

TEST(ByteReader, TakesUpToTheLastByteAndNotOneMore) {
  const std::vector<uint8_t> bytes = {1, 2, 3};
  ByteReader reader(bytes);
  EXPECT_EQ(reader.Take(4, "x").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(reader.Take(3, "x")->size(), 3u);
  EXPECT_EQ(reader.Take(0, "x")->size(), 0u);
  EXPECT_EQ(reader.Take(std::numeric_limits<uint64_t>::max(), "x").status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(ByteReader, RefusesAStringLongerThanWhatIsLeft) {
  std::vector<uint8_t> bytes = {3, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c'};
  EXPECT_EQ(*ByteReader(bytes).ReadString("s"), "abc");
  for (const uint8_t high : {0x00, 0x7F, 0x80, 0xFF}) {  // 2^63 and -1 as lengths, too
    bytes[0] = 4;
    bytes[7] = high;
    ByteReader reader(bytes);
    EXPECT_EQ(reader.ReadString("s").status().code(), absl::StatusCode::kDataLoss) << int{high};
  }
}

}  // namespace
}  // namespace nibble
