// A CUDA thread as a fiber: its own stack, switched by hand (ucontext would make a system call at
// each switch). x86-64 only.
#pragma once

#include <cstdint>

namespace nibble::emulator {

// Saves the running fiber on its stack, its stack pointer in *from, and goes on where `to` was
// saved.
extern "C" void nibble_emulator_switch(void** from, void* to);

// What to switch to so that `entry` begins on the stack that ends at `stack_end` (16-byte aligned).
// `entry` must not return.
inline void* NewFiber(uint8_t* stack_end, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack_end);
  *--top = nullptr;  // at a function's first instruction the stack pointer is 16 n + 8
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the registers that a callee keeps
  return top;
}

}  // namespace nibble::emulator
