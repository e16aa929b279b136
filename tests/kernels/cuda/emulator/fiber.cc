#include "emulator/fiber.h"

asm(R"(
.text
.globl nibble_emulator_switch
.type nibble_emulator_switch, @function
nibble_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size nibble_emulator_switch, .-nibble_emulator_switch
)");
