// The searches behind the encoders: a step for a few values, alone or with an offset. All of them
// minimize sum w (x - value)^2 and are deterministic; sums run in eight lanes whose order is fixed.
#pragma once

#include <cstdint>

namespace nibble {

// To nearest, ties to even, for |x| < 2^22. An addition and a subtraction: it vectorizes.
inline float Nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

inline constexpr int kMaxGridValues = 16;

// The values that codes stand for, in units of the step: all whole numbers lo .. hi, or a table.
struct Grid {
  float lo = 0, hi = 0;
  const int8_t* table = nullptr;  // 16 ascending values; null: whole numbers
  float spread = 1;               // candidates of the step put the extreme at lo +- spread
};

// The grid's value nearest to each of inverse * x[n].
void SnapToGrid(const Grid& grid, float inverse, const float* x, int n, float* values);

// A step and, per element, the grid's value: x is about scale * value.
// values[n] is filled. Returns the scale, of either sign; 0 when every x or every weight is 0.
// REQUIRES n % 8 == 0, n <= 256.
float SearchScale(const Grid& grid, const float* x, const float* w, int n, float* values);

// x is about scale * code + min, codes 0 .. max_code, scale >= 0.
struct AffineFit {
  float scale = 0;
  float min = 0;
};
// With `min_is_negative`, min <= 0, as the k-quants store it. REQUIRES n % 8 == 0, n <= 256.
AffineFit SearchAffine(float max_code, bool min_is_negative, const float* x, const float* w, int n);

// codes = the nearest of 0 .. max_code to (x - min) / scale (0 where scale is 0); returns the
// error.
float AffineCodes(float max_code, float scale, float min, const float* x, const float* w, int n,
                  float* codes);

// values = the grid's nearest to x / scale (the one nearest 0 where scale is 0); returns the error.
float GridValues(const Grid& grid, float scale, const float* x, const float* w, int n,
                 float* values);

}  // namespace nibble
