"""Torch beside nibble's ops, on the same shapes, as lines that op_sweep prints too.

    python3 -m gpu_day.peers cuda:N|cpu [small]

On a GPU each is timed as a CUDA graph of several calls over weights (or caches) that together are larger than L2, by
events. `cpu small` tests this script where there is no GPU. Peers that this torch or this device cannot do are named on
stderr and left out. Exit code 77 and one line on stdout where there is no torch or it sees no GPU, 1 where no peer ran,
2 for wrong usage.
"""
import dataclasses
import json
import re
import sys
import time
import typing

REPETITIONS = 5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is timed."""
    linears: dict         # name -> (out, cols)
    rows: tuple           # of a linear's x
    attention: tuple      # (sequences, context) of decode
    prompts: tuple        # tokens
    copy_bytes: int
    cold_bytes: int       # what a rotation is larger than


FULL = Sizes({"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)},
             (1, 8, 16, 32, 64, 128, 256, 1024),
             ((1, 1024), (1, 4096), (1, 16384), (8, 1024), (32, 1024), (32, 4096), (128, 1024), (256, 1024)),
             (1024, 4096, 8192), 1 << 30, 192 << 20)
SMALL = Sizes({"small": (256, 128)}, (1, 3), ((2, 40),), (40,), 1 << 20, 0)


@dataclasses.dataclass(frozen=True)
class Sweep:
    torch: typing.Any
    device: str           # "cuda:0"; "cpu"
    sizes: Sizes
    emit: typing.Callable  # of a line, as soon as it is known

    def copies_for(self, size_bytes):
        return max(2, self.sizes.cold_bytes // size_bytes + 2)

    def random(self, *shape):
        return self.torch.randn(*shape, device=self.device, dtype=self.torch.bfloat16)


def line(op, variant, shape, rows, context, bytes_moved, flops, microseconds):
    return json.dumps({"op": op, "variant": variant, "shape": shape, "rows": rows, "context": context,
                       "bytes": int(bytes_moved), "flops": int(flops), "microseconds": round(microseconds, 3),
                       "fastest_microseconds": round(microseconds, 3)})


def microseconds_of(sweep, calls):
    """Of one of `calls` (functions without arguments), the median of several rounds of them all."""
    rounds = replayed if sweep.device.startswith("cuda") else clocked
    return sorted(rounds(sweep.torch, calls))[REPETITIONS // 2] / len(calls)


def replayed(torch, calls):
    """Microseconds of each replay of a graph of `calls`."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        graph.replay()
        times = []
        for _ in range(REPETITIONS):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(stream)
            graph.replay()
            after.record(stream)
            after.synchronize()
            times.append(1e3 * before.elapsed_time(after))
    return times


def clocked(_, calls):
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        for call in calls:
            call()
        times.append(1e6 * (time.perf_counter() - start))
    return times


def bf16_linear(sweep, out, cols, rows):
    weights = [sweep.random(out, cols) for _ in range(sweep.copies_for(2 * out * cols))]
    x = sweep.random(rows, cols)
    return [lambda w=w: sweep.torch.nn.functional.linear(x, w) for w in weights], 2 * out * cols


def fp8_linear(sweep, out, cols, rows):
    torch, form = sweep.torch, sweep.torch.float8_e4m3fn
    weights = [sweep.random(out, cols).to(form) for _ in range(sweep.copies_for(out * cols))]
    x = sweep.random(max(rows, 16), cols).to(form)  # it takes no fewer
    one = torch.ones((), device=sweep.device)
    return [lambda w=w: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
            for w in weights], out * cols


def int4_linear(sweep, out, cols, rows):
    torch, group, weights = sweep.torch, 128, []
    for _ in range(sweep.copies_for(out * cols // 2)):
        codes = torch.randint(0, 255, (out, cols // 2), device=sweep.device, dtype=torch.uint8)
        weights.append(torch.ops.aten._convert_weight_to_int4pack(codes, 8))
    scales = torch.ones(cols // group, out, 2, device=sweep.device, dtype=torch.bfloat16)
    x = sweep.random(rows, cols)
    return [lambda w=w: torch.ops.aten._weight_int4pack_mm(x, w, group, scales) for w in weights], \
        out * cols * (0.5 + 4 / group)


LINEARS = (("bf16 (cuBLAS)", bf16_linear), ("fp8 (_scaled_mm)", fp8_linear), ("int4-g128 (tinygemm)", int4_linear))


def sweep_linears(sweep):
    for name, make in LINEARS:
        for shape, (out, cols) in sweep.sizes.linears.items():
            for rows in sweep.sizes.rows:
                attempt(name, lambda: time_linear(sweep, name, make, shape, out, cols, rows))
            if sweep.device != "cpu":
                sweep.torch.cuda.empty_cache()


def time_linear(sweep, name, make, shape, out, cols, rows):
    calls, weight_bytes = make(sweep, out, cols, rows)
    sweep.emit(line("linear", name, shape, rows, 0, weight_bytes + 2 * rows * (out + cols), 2 * rows * out * cols,
                    microseconds_of(sweep, calls)))


def time_attention(sweep, sequences, context, query_rows):
    """Its cache is one piece, not pages: torch has no others."""
    cache_bytes = 2 * sequences * context * 8 * 128 * 2
    q = sweep.random(sequences, 32, query_rows, 128)
    caches = [sweep.random(2, sequences, 8, context, 128) for _ in range(min(64, sweep.copies_for(cache_bytes)))]
    calls = [lambda c=c: sweep.torch.nn.functional.scaled_dot_product_attention(
        q, c[0], c[1], is_causal=query_rows > 1, enable_gqa=True) for c in caches]
    seen = sequences * (context if query_rows == 1 else context * (context + 1) // 2)
    op = "decode_attention" if query_rows == 1 else "prefill_attention"
    sweep.emit(line(op, "SDPA bf16, no pages", "h32/8x128", sequences if query_rows == 1 else query_rows, context,
                    cache_bytes + 4 * sequences * query_rows * 4096, 4 * seen * 4096, microseconds_of(sweep, calls)))


def time_copy(sweep):
    size = sweep.sizes.copy_bytes
    source = sweep.torch.empty(size, device=sweep.device, dtype=sweep.torch.uint8).random_(0, 255)
    target = sweep.torch.empty_like(source)
    sweep.emit(line("copy", "copy_", f"{size >> 20} MiB", 1, 0, 2 * size, 0,
                    microseconds_of(sweep, [lambda: target.copy_(source)])))


def attempt(name, work):
    try:
        work()
    except Exception as error:  # whatever a peer does: the others go on
        print(f"{name}: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}", file=sys.stderr)


def run(sweep):
    attempt("copy", lambda: time_copy(sweep))
    for sequences, context in sweep.sizes.attention:
        attempt("SDPA", lambda: time_attention(sweep, sequences, context, 1))
    for tokens in sweep.sizes.prompts:
        attempt("SDPA", lambda: time_attention(sweep, 1, tokens, tokens))
    sweep_linears(sweep)


def main(arguments):
    words = [word for word in arguments if word != "small"]
    if len(words) != 1 or not re.fullmatch(r"cpu|cuda:\d+", words[0]):
        print(f"peers: found '{' '.join(arguments)}', needed cpu or cuda:N, and small or not", file=sys.stderr)
        return 2
    try:
        import torch
    except ImportError:
        print("SKIPPED: this python3 has no torch")
        return 77
    if words[0] != "cpu":
        if not torch.cuda.is_available():
            print("SKIPPED: this torch sees no GPU")
            return 77
        torch.cuda.set_device(words[0])
    lines = []
    run(Sweep(torch, words[0], SMALL if "small" in arguments else FULL,
              lambda text: (lines.append(text), print(text, flush=True))))
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
