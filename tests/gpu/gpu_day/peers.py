"""Torch beside nibble's ops, on the same shapes, as lines that op_sweep prints too. Where there is no torch, exit code 77.

Each is timed as a CUDA graph of several calls over weights (or caches) that together are larger than L2, by events.
Peers that this torch or this device cannot do are named on stderr and left out.
"""
import json
import sys

SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
ROWS = (1, 8, 16, 32, 64, 128, 256, 1024)
ATTENTION = ((1, 1024), (1, 4096), (1, 16384), (8, 1024), (32, 1024), (32, 4096), (128, 1024), (256, 1024))
PROMPTS = (1024, 4096, 8192)
COLD_BYTES = 192 << 20


def line(op, variant, shape, rows, context, bytes_moved, flops, microseconds):
    return json.dumps({"op": op, "variant": variant, "shape": shape, "rows": rows, "context": context,
                       "bytes": int(bytes_moved), "flops": int(flops), "microseconds": round(microseconds, 3),
                       "fastest_microseconds": round(microseconds, 3)})


def copies_for(size_bytes):
    return max(2, COLD_BYTES // size_bytes + 2)


def microseconds_of(torch, calls, repetitions=5):
    """Of one of `calls` (functions without arguments), the median of several replays of a graph of them all."""
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
        for _ in range(repetitions):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(stream)
            graph.replay()
            after.record(stream)
            after.synchronize()
            times.append(1e3 * before.elapsed_time(after) / len(calls))
    return sorted(times)[len(times) // 2]


def bf16_linear(torch, out, cols, rows):
    weights = [torch.randn(out, cols, device="cuda", dtype=torch.bfloat16) for _ in range(copies_for(2 * out * cols))]
    x = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights], 2 * out * cols


def fp8_linear(torch, out, cols, rows):
    form = torch.float8_e4m3fn
    weights = [torch.randn(out, cols, device="cuda").to(form) for _ in range(copies_for(out * cols))]
    x = torch.randn(max(rows, 16), cols, device="cuda").to(form)  # it takes no fewer
    one = torch.ones((), device="cuda")
    return [lambda w=w: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
            for w in weights], out * cols


def int4_linear(torch, out, cols, rows):
    group = 128
    weights = []
    for _ in range(copies_for(out * cols // 2)):
        codes = torch.randint(0, 255, (out, cols // 2), device="cuda", dtype=torch.uint8)
        weights.append(torch.ops.aten._convert_weight_to_int4pack(codes, 8))
    scales = torch.ones(cols // group, out, 2, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)
    return [lambda w=w: torch.ops.aten._weight_int4pack_mm(x, w, group, scales) for w in weights], \
        out * cols * (0.5 + 4 / group)


LINEARS = (("bf16 (cuBLAS)", bf16_linear), ("fp8 (_scaled_mm)", fp8_linear), ("int4-g128 (tinygemm)", int4_linear))


def sweep_linears(torch, emit):
    for name, make in LINEARS:
        for shape, (out, cols) in SHAPES.items():
            for rows in ROWS:
                attempt(name, lambda: time_linear(torch, emit, name, make, shape, out, cols, rows))
            torch.cuda.empty_cache()


def time_linear(torch, emit, name, make, shape, out, cols, rows):
    calls, weight_bytes = make(torch, out, cols, rows)
    emit(line("linear", name, shape, rows, 0, weight_bytes + 2 * rows * (out + cols), 2 * rows * out * cols,
              microseconds_of(torch, calls)))


def time_attention(torch, emit, sequences, context, query_rows):
    """Its cache is one piece, not pages: torch has no others."""
    half = dict(device="cuda", dtype=torch.bfloat16)
    cache_bytes = 2 * sequences * context * 8 * 128 * 2
    q = torch.randn(sequences, 32, query_rows, 128, **half)
    caches = [torch.randn(2, sequences, 8, context, 128, **half) for _ in range(min(64, copies_for(cache_bytes)))]
    calls = [lambda c=c: torch.nn.functional.scaled_dot_product_attention(
        q, c[0], c[1], is_causal=query_rows > 1, enable_gqa=True) for c in caches]
    seen = sequences * (context if query_rows == 1 else context * (context + 1) // 2)
    op = "decode_attention" if query_rows == 1 else "prefill_attention"
    emit(line(op, "SDPA bf16, no pages", "h32/8x128", sequences if query_rows == 1 else query_rows, context,
              cache_bytes + 4 * sequences * query_rows * 4096, 4 * seen * 4096, microseconds_of(torch, calls)))


def time_copy(torch, emit):
    source = torch.empty(1 << 30, device="cuda", dtype=torch.uint8).random_(0, 255)
    target = torch.empty_like(source)
    emit(line("copy", "copy_", "1 GiB", 1, 0, 2 << 30, 0, microseconds_of(torch, [lambda: target.copy_(source)])))


def attempt(name, work):
    try:
        work()
    except Exception as error:  # whatever a peer does: the others go on
        print(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}", file=sys.stderr)


def main(torch, emit):
    attempt("copy", lambda: time_copy(torch, emit))
    for sequences, context in ATTENTION:
        attempt("SDPA", lambda: time_attention(torch, emit, sequences, context, 1))
    for tokens in PROMPTS:
        attempt("SDPA", lambda: time_attention(torch, emit, 1, tokens, tokens))
    torch.cuda.empty_cache()
    sweep_linears(torch, emit)


if __name__ == "__main__":
    try:
        import torch as found
    except ImportError:
        print("SKIPPED: this python3 has no torch")
        sys.exit(77)
    if not found.cuda.is_available():
        print("SKIPPED: this torch sees no GPU")
        sys.exit(77)
    main(found, lambda text: print(text, flush=True))
