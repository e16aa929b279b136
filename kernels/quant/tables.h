// Tables of kLut4 matrices (matrix.h) that more than one reader or maker of weights knows by name.
#pragma once

namespace nibble::quant {

// NF4: normal quantiles (arXiv 2305.14314, appendix E), as bitsandbytes stores them.
inline constexpr float kNf4Table[16] = {-1.0f,
                                        -0.6961928009986877f,
                                        -0.5250730514526367f,
                                        -0.39491748809814453f,
                                        -0.28444138169288635f,
                                        -0.18477343022823334f,
                                        -0.09105003625154495f,
                                        0.0f,
                                        0.07958029955625534f,
                                        0.16093020141124725f,
                                        0.24611230194568634f,
                                        0.33791524171829224f,
                                        0.44070982933044434f,
                                        0.5626170039176941f,
                                        0.7229568362236023f,
                                        1.0f};
// FP4 of bitsandbytes: 1 sign, 2 exponent and 1 mantissa bit, over its
// maximum: 0, 1/16, 8, 12, 4, 6, 2, 3 over 12, then the negative ones.
inline constexpr float kFp4Table[16] = {
    0.0f,  0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

}  // namespace nibble::quant
