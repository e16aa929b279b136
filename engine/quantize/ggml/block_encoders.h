// One block at a time, for EncodeRow only. `x` and the weights `w` have the block's elements, `out`
// its bytes.
#pragma once

#include <cstdint>

namespace nibble {

void EncodeQ4_0(const float* x, const float* w, uint8_t* out);
void EncodeQ4_1(const float* x, const float* w, uint8_t* out);
void EncodeQ5_0(const float* x, const float* w, uint8_t* out);
void EncodeQ5_1(const float* x, const float* w, uint8_t* out);
void EncodeQ8_0(const float* x, const float* w, uint8_t* out);
void EncodeIq4Nl(const float* x, const float* w, uint8_t* out);
void EncodeMxfp4(const float* x, const float* w, uint8_t* out);

void EncodeQ2_K(const float* x, const float* w, uint8_t* out);
void EncodeQ3_K(const float* x, const float* w, uint8_t* out);
void EncodeQ4_K(const float* x, const float* w, uint8_t* out);
void EncodeQ5_K(const float* x, const float* w, uint8_t* out);
void EncodeQ6_K(const float* x, const float* w, uint8_t* out);
void EncodeIq4Xs(const float* x, const float* w, uint8_t* out);

// Stores `value` as an f16, saturated; returns what was stored.
float StoreF16Scale(float value, uint8_t* out);
// The code of a value of IQ4_NL's table.
uint8_t Iq4Code(float value);

}  // namespace nibble
