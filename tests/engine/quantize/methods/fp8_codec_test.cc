#include "engine/quantize/methods/fp8_codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "kernels/fp8.h"

namespace nibble::quantize {
namespace {

struct Codec {
  uint8_t (*encode)(float);
  float (*decode)(uint8_t);
  bool (*finite)(uint8_t);
  float max;
};
const Codec kCodecs[] = {
    {F32ToE4m3, E4m3ToF32, [](uint8_t code) { return !E4m3IsNan(code); }, kE4m3Max},
    {F32ToE5m2, E5m2ToF32, [](uint8_t code) { return E5m2IsFinite(code); }, kE5m2Max}};

TEST(Fp8CodecTest, EveryFiniteCodeComesBack) {
  for (const Codec& codec : kCodecs) {
    for (int code = 0; code < 256; ++code) {
      if (!codec.finite(static_cast<uint8_t>(code))) continue;
      EXPECT_EQ(codec.encode(codec.decode(static_cast<uint8_t>(code))), code);
    }
  }
}

// Between neighbours: the nearer one, and on the half way the one with an even code.
TEST(Fp8CodecTest, RoundsToNearestTiesToEven) {
  for (const Codec& codec : kCodecs) {
    for (int code = 0; code < 127; ++code) {
      if (!codec.finite(static_cast<uint8_t>(code + 1))) break;
      const float low = codec.decode(static_cast<uint8_t>(code));
      const float high = codec.decode(static_cast<uint8_t>(code + 1));
      const float middle = (low + high) / 2;
      EXPECT_EQ(codec.encode(middle), code % 2 == 0 ? code : code + 1);
      EXPECT_EQ(codec.encode(std::nextafter(middle, 0.0f)), code);
      EXPECT_EQ(codec.encode(std::nextafter(middle, high)), code + 1);
      EXPECT_EQ(codec.encode(-std::nextafter(middle, high)), code + 1 + 128);
    }
  }
}

TEST(Fp8CodecTest, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Codec& codec : kCodecs) {
    EXPECT_EQ(codec.decode(codec.encode(codec.max * 2)), codec.max);
    EXPECT_EQ(codec.decode(codec.encode(-infinity)), -codec.max);
    EXPECT_TRUE(std::isnan(codec.decode(codec.encode(std::nanf("")))));
    EXPECT_EQ(codec.encode(0.0f), 0);
    EXPECT_EQ(codec.encode(-0.0f), 0x80);
    EXPECT_EQ(codec.encode(std::numeric_limits<float>::denorm_min()), 0);
  }
  EXPECT_EQ(kE4m3Max, 448.0f);
  EXPECT_EQ(kE5m2Max, 57344.0f);
}

}  // namespace
}  // namespace nibble::quantize
