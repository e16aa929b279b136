#include "engine/base/hash.h"

#include <gtest/gtest.h>

#include <set>

namespace nibble {
namespace {

absl::Span<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(HashTest, Sha256MatchesTheStandardsExamples) {  // FIPS 180-4, appendix B
  EXPECT_EQ(Hex(Sha256({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256(Bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(HashTest, ChainIsSha256OfKeyParentAndPiece) {
  const Digest key = Sha256(Bytes("key"));
  const Digest parent = Sha256(Bytes("parent"));
  std::string all(key.begin(), key.end());
  all.append(parent.begin(), parent.end());
  all += "piece";
  EXPECT_EQ(KeyedHash(key).Chain(parent, Bytes("piece")), Sha256(Bytes(all)));
}

TEST(HashTest, ChainDependsOnKeyParentAndPieceAndNothingElse) {
  KeyedHash one(MakeHashKey(1));
  KeyedHash two(MakeHashKey(2));
  const Digest base = one.Chain({}, Bytes("a"));
  EXPECT_EQ(one.Chain({}, Bytes("a")), base);  // no state is left over from the last call
  EXPECT_NE(two.Chain({}, Bytes("a")), base);
  EXPECT_NE(one.Chain(base, Bytes("a")), base);
  EXPECT_NE(one.Chain({}, Bytes("b")), base);
}

TEST(HashTest, KeysRepeatForASeedAndNeverWithoutOne) {
  EXPECT_EQ(MakeHashKey(7), MakeHashKey(7));
  EXPECT_NE(MakeHashKey(7), MakeHashKey(8));
  EXPECT_NE(MakeHashKey(0), MakeHashKey(0));
}

TEST(HashTest, RandomSeedsDiffer) {
  std::set<uint64_t> seeds;
  for (int i = 0; i < 100; ++i) seeds.insert(RandomSeed());
  EXPECT_EQ(seeds.size(), 100u);
  EXPECT_EQ(seeds.count(0), 0u);
}

TEST(HashTest,
     ScatterIsSplitMix64) {  // reference outputs of Vigna's splitmix64.c for state 1234567
  EXPECT_EQ(Scatter(1234567), 6457827717110365317u);
  EXPECT_EQ(Scatter(1234567 + 0x9e3779b97f4a7c15), 3203168211198807973u);
}

}  // namespace
}  // namespace nibble
