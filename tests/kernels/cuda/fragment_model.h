// Which lane's which register holds an element of a matrix, from the formulas of the PTX ISA (8.x,
// "Matrix Fragments for mma.m16n8k16 with floating point type" and "ldmatrix"). A second reading of
// the manual: the emulator goes from registers to elements and shares no line with this, which goes
// from elements to registers.
#pragma once

namespace nibble::cuda {

struct RegisterSlot {
  int lane;
  int value;  // which of the lane's values: 16-bit ones for a and b (two a register), f32 for c and
              // d
};

// "row = groupID for ai where 0 <= i < 2 || 4 <= i < 6, groupID + 8 otherwise;
//  col = threadID_in_group * 2 + (i & 1) for i < 4, + 8 for i >= 4", turned round.
constexpr RegisterSlot SlotOfA(int row, int col) {
  const int lane = row % 8 * 4 + col % 8 / 2;
  const int i = (col >= 8 ? 4 : 0) + (row >= 8 ? 2 : 0) + (col & 1);
  return {lane, i};
}

// "row = threadID_in_group * 2 + (i & 1) for bi where i < 2, + 8 for i >= 2; col = groupID".
constexpr RegisterSlot SlotOfB(int row, int col) {
  return {col * 4 + row % 8 / 2, (row >= 8 ? 2 : 0) + (row & 1)};
}

// "row = groupID for ci where i < 2, groupID + 8 for i >= 2; col = threadID_in_group * 2 + (i &
// 1)".
constexpr RegisterSlot SlotOfD(int row, int col) {
  return {row % 8 * 4 + col / 2, (row >= 8 ? 2 : 0) + (col & 1)};
}

// ldmatrix: "each thread holds two elements of a row: thread T has elements 2 (T % 4) and + 1 of
// row T / 4".
constexpr RegisterSlot SlotOf8x8(int row, int col) { return {row * 4 + col / 2, col & 1}; }

// wgmma, of its second operand where "the leading dimension is K" and the swizzle is 128 bytes:
// rows of 128 bytes, and "16-byte units of eight rows of 1024 bytes permuted by the row". Which of
// the 16-bit values of the rows of 64 columns, beginning at a multiple of 1024 bytes, is (row,
// col).
constexpr int SwizzledPlace(int row, int col) {
  const int unit = col / 8, permuted = (unit & ~7) | ((unit ^ row) & 7);
  return row * 64 + permuted * 8 + col % 8;
}

// Of its first one, in registers, and its accumulators: warp w of the group has rows 16 w .. , each
// tile of 8 columns of d as SlotOfD ("fragment layouts of m64nNk16").

}  // namespace nibble::cuda
