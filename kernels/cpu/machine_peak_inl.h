// What every loop that measures a peak needs. Included by one translation unit per ISA.
#pragma once

namespace nibble::cpu {
namespace {

// The same value of a vector register, but the compiler cannot know that: it neither moves a
// product out of a loop nor finds that two sums are equal.
template <typename Register>
Register Hidden(Register value) {
  asm volatile("" : "+v"(value));
  return value;
}

}  // namespace
}  // namespace nibble::cpu
