// counted_ops OP ISA: runs a hot op once on one thread, inside the function nibble_counted_op, so
// that callgrind can count its instructions (docs/benchmarks/callgrind does). The op has run once
// before: what it allocates at first is not counted.
//   int4_linear_1, int4_linear_32   a Q4_1 weight of 1536 x 576, 1 or 32 rows of x
//   attention_decode_1024           one token at a context of 1,024 tokens: 9 heads, 3 kv heads of
//   64
#include <cstdio>
#include <functional>
#include <string>

#include "kernels/cpu/isa.h"
#include "tests/kernels/cpu/op_data.h"

extern "C" __attribute__((noinline)) void nibble_counted_op(const std::function<void()>& op) {
  op();
}

namespace nibble {
namespace {

int Count(const std::string& name, const std::string& isa_name) {
  CpuOptions options;
  options.num_threads = 1;
  for (const CpuIsa isa : SupportedIsas()) {
    if (IsaName(isa) == isa_name) options.isa = isa;
  }
  if (options.isa == CpuIsa::kAuto) {
    std::fprintf(stderr, "isa '%s': this machine lacks it\n", isa_name.c_str());
    return 2;
  }
  const std::unique_ptr<Backend> backend = CreateCpuBackend(options).value();
  const quant::RandomSpec weight = {
      .format = quant::Format::kInt4Affine, .rows = kFfn, .cols = kHidden, .offsets = true};
  std::function<void()> op;
  if (name == "int4_linear_1" || name == "int4_linear_32") {
    const int32_t rows = name == "int4_linear_1" ? 1 : 32;
    auto linear = std::make_shared<LinearOp>(*backend, weight, rows, 1);
    op = [linear] { linear->Run(); };
  } else if (name == "attention_decode_1024") {
    auto attention = std::make_shared<AttentionOp>(*backend, 1, 1024, 1);
    op = [attention] { attention->Attend(); };
  } else {
    std::fprintf(stderr, "op '%s': needed int4_linear_1, int4_linear_32, attention_decode_1024\n",
                 name.c_str());
    return 2;
  }
  op();
  nibble_counted_op(op);
  return 0;
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: counted_ops OP ISA\n");
    return 2;
  }
  return nibble::Count(argv[1], argv[2]);
}
