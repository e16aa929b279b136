// Where the compiler reports memory accesses: .cu files are compiled with -fsanitize=thread and
// linked against these receivers instead of its library, so that ordinary loads and stores of a
// kernel are seen without any change to it.
#include <cstddef>
#include <cstdint>

#include "emulator/gpu.h"

namespace {

inline void Touch(const void* pointer, size_t bytes, bool write, bool aligned, void* site) {
  nibble::emulator::Block& block = nibble::emulator::TheGpu().block();
  if (block.running())
    block.Touch(pointer, bytes, write, aligned, reinterpret_cast<uintptr_t>(site));
}

}  // namespace

#define SITE __builtin_return_address(0)
#define RECEIVERS(n)                                                         \
  void __tsan_read##n(void* p) { Touch(p, n, false, true, SITE); }           \
  void __tsan_write##n(void* p) { Touch(p, n, true, true, SITE); }           \
  void __tsan_unaligned_read##n(void* p) { Touch(p, n, false, true, SITE); } \
  void __tsan_unaligned_write##n(void* p) { Touch(p, n, true, true, SITE); } \
  void __tsan_volatile_read##n(void* p) { Touch(p, n, false, true, SITE); }  \
  void __tsan_volatile_write##n(void* p) { Touch(p, n, true, true, SITE); }

extern "C" {
RECEIVERS(1)
RECEIVERS(2)
RECEIVERS(4)
RECEIVERS(8)
RECEIVERS(16)
// Copies of structs: the compiler does not say how wide the accesses are.
void __tsan_read_range(void* p, size_t bytes) { Touch(p, bytes, false, false, SITE); }
void __tsan_write_range(void* p, size_t bytes) { Touch(p, bytes, true, false, SITE); }
// Whether a static of a host's function is made.
uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return *p; }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}  // extern "C"
