#!/usr/bin/env python3
"""The paper model of docs/gpu-model.md: bytes, multiply-adds and launches of a step, turned into tokens a second.

    docs/gpu_model.py            prints the tables
    docs/gpu_model.py --write    puts them into docs/gpu-model.md and README.md, between their marks

The predictions were made before a GPU ran the code, and are not fitted to what it gave. Sizes follow from the shape,
launches from the code (kernels/cuda/linear.cc, attention.cc), efficiencies from what others measured; the page says
which and where.
"""
import dataclasses
import json
import pathlib
import sys

PAGE = pathlib.Path(__file__).with_name("gpu-model.md")
MEASURED = pathlib.Path(__file__).parent / "benchmarks/gpu/2026-11-26-h200-bulk"
README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- {}: docs/gpu_model.py -->", "<!-- end -->"


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama: what a step's bytes and multiply-adds follow from."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int

    @property
    def q_cols(self):
        return self.heads * self.head_dim

    @property
    def kv_cols(self):
        return self.kv_heads * self.head_dim

    def matrices(self):
        """name -> (out, in) of one layer, as they are launched: q, k, v in one and gate, up in one."""
        return {"qkv": (self.q_cols + 2 * self.kv_cols, self.hidden), "o": (self.hidden, self.q_cols),
                "gate_up": (2 * self.ffn, self.hidden), "down": (self.hidden, self.ffn)}

    @property
    def layer_params(self):
        return sum(rows * cols for rows, cols in self.matrices().values())

    @property
    def linear_params(self):
        return self.layers * self.layer_params

    @property
    def head_params(self):
        return self.vocab * self.hidden

    def kv_bytes(self, element_bytes):
        """Of one position, all layers, k and v."""
        return 2 * self.layers * self.kv_cols * element_bytes

    def attention_flops(self, context):
        """Of one row that sees `context` positions: scores and weighted values."""
        return 4 * self.layers * self.q_cols * context


LLAMA_8B = Shape(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256)


@dataclasses.dataclass(frozen=True)
class Device:
    """Ceilings: a copy's bytes a second (read and written), and dense products of wgmma."""
    name: str
    bandwidth: float
    bf16_flops: float

    @property
    def fp8_flops(self):
        return 2 * self.bf16_flops


H100 = Device("H100", 3.0e12, 0.79e15)
H200 = Device("H200", 4.3e12, 0.79e15)
DEVICES = (H100, H200)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """How a set of kernels runs a step; seconds and shares of a device's ceilings."""
    name: str
    weight_bits: float      # of a weight of the layers, scales included
    head_bytes: float       # moved for a weight of the head
    fp8: bool               # products at fp8's rate; else bf16's
    bandwidth_share: float  # of a GEMM that waits for memory, without `fixed`
    product_share: float    # of a GEMM that waits for products: of wgmma's rate
    rows_a_pass: int        # rows of x for which weights are read once; 0: any number
    other_launches: int     # of a layer and pass of rows: norms, gate
    step_launches: int      # of a layer and step: rope
    head_launches: int      # beside its GEMM
    prefill_attention_flops: float
    prefill_product_share: float
    fixed: float = 2.0e-6             # a GEMM's ramp, tail and the gap before it
    small: float = 2.0e-6             # a launch that moves next to nothing
    attention_fixed: float = 9.5e-6   # of one decode launch
    attention_bandwidth_share: float = 0.85
    step: float = 40e-6               # copies of ids and positions, sampling, the host's turn


# As the goals have it: fused projections, products on 65 % of wgmma's rate (what mma.sync can do), an int4 GEMM at
# 80 % of the copy ceiling. Efficiencies are peers' (docs/gpu-model.md).
INT4_GOAL = Kernels("INT4", 4.125, 1.03, False, 0.80, 0.65, 0, 3, 1, 2, 350e12, 0.85)
FP8_GOAL = Kernels("FP8", 8.0, 1.0, True, 0.86, 0.60, 0, 3, 1, 2, 350e12, 0.70)
# The code today: one kernel of 16-bit products reads the codes of every weight, the head's too, again for every 256 rows;
# products at Marlin's 45 %, attention's second product is done twice.
INT4_TODAY = Kernels("INT4", 4.125, 0.516, False, 0.80, 0.45, 256, 3, 1, 2, 180e12, 0.45)
FP8_TODAY = Kernels("FP8", 8.0, 1.0, False, 0.80, 0.45, 256, 3, 1, 2, 180e12, 0.45)
# The same with --cuda-w8a8, for its launches: q, k, v and gate, up are GEMMs of their own, three more; norms quantize,
# o's and down's rows are quantized by themselves, and what the GEMMs made of q, k and v, of gate and up (with the gate),
# of o and of down is finished by a launch each.
FP8_W8A8 = dataclasses.replace(FP8_TODAY, rows_a_pass=64, other_launches=11, head_launches=3)
SETS = {"goals": (INT4_GOAL, FP8_GOAL), "today": (INT4_TODAY, FP8_TODAY)}


def gemm_seconds(device, kernels, params, rows, weight_bytes, product_share):
    """One launch for one pass of rows."""
    peak = device.fp8_flops if kernels.fp8 else device.bf16_flops
    memory = params * weight_bytes / (kernels.bandwidth_share * device.bandwidth)
    return max(memory, 2 * params * rows / (product_share * peak)) + kernels.fixed


def linear_seconds(device, kernels, shape, rows, product_share):
    """All layers' GEMMs and what is launched once a pass."""
    passes = split_rows(rows, kernels.rows_a_pass)
    total = 0.0
    for rows_of_pass in passes:
        for out, cols in shape.matrices().values():
            total += gemm_seconds(device, kernels, out * cols, rows_of_pass, kernels.weight_bits / 8, product_share)
        total += kernels.other_launches * kernels.small
    return shape.layers * (total + kernels.step_launches * kernels.small)


def split_rows(rows, rows_a_pass):
    if rows_a_pass == 0:
        return [rows]
    return [min(rows_a_pass, rows - first) for first in range(0, rows, rows_a_pass)]


def head_seconds(device, kernels, shape, rows):
    total = 0.0
    for rows_of_pass in split_rows(rows, kernels.rows_a_pass):
        total += gemm_seconds(device, kernels, shape.head_params, rows_of_pass, kernels.head_bytes,
                              kernels.product_share) + kernels.head_launches * kernels.small
    return total


def decode_seconds(device, kernels, shape, batch, context, kv_element_bytes):
    """One step of `batch` sequences: (linears, attention, head, the rest)."""
    linears = linear_seconds(device, kernels, shape, batch, kernels.product_share)
    cache = batch * context * shape.kv_bytes(kv_element_bytes)
    attention = shape.layers * kernels.attention_fixed + cache / (kernels.attention_bandwidth_share * device.bandwidth)
    return linears, attention, head_seconds(device, kernels, shape, batch), kernels.step


def decode_rate(device, kernels, batch, context=1024, kv_element_bytes=1, shape=LLAMA_8B):
    return batch / sum(decode_seconds(device, kernels, shape, batch, context, kv_element_bytes))


def prefill_seconds(device, kernels, shape, tokens):
    linears = linear_seconds(device, kernels, shape, tokens, kernels.prefill_product_share)
    attention = shape.attention_flops(tokens / 2) * tokens / kernels.prefill_attention_flops
    return linears + attention + head_seconds(device, kernels, shape, 1) + kernels.step


def prefill_rate(device, kernels, tokens=4096, shape=LLAMA_8B):
    return tokens / prefill_seconds(device, kernels, shape, tokens)


def launches(kernels, shape, rows):
    passes = len(split_rows(rows, kernels.rows_a_pass))
    layer = passes * (len(shape.matrices()) + kernels.other_launches) + kernels.step_launches + 1
    embed_and_sample = 5  # one and four
    return shape.layers * layer + passes * (kernels.head_launches + 1) + embed_and_sample


def roofline_rate(device, weight_bytes, flops_peak, batch, context, kv_element_bytes, shape=LLAMA_8B):
    """Tokens a second of kernels that are perfect and follow each other without a gap."""
    linears = max(weight_bytes / device.bandwidth, 2 * (shape.linear_params + shape.head_params) * batch / flops_peak)
    return batch / (linears + batch * context * shape.kv_bytes(kv_element_bytes) / device.bandwidth)


def roofline_of(device, kernels, batch, shape=LLAMA_8B):
    """Of the format: both sets of kernels of a format have the same."""
    bits = 8.0 if kernels.name == "FP8" else 4.125
    weights = shape.linear_params * bits / 8 + shape.head_params
    peak = device.fp8_flops if kernels.name == "FP8" else device.bf16_flops
    return roofline_rate(device, weights, peak, batch, 1024, 1, shape)


# (format, batch) -> goal on H200 in tokens/s, context 1,024, fp8 cache; (format, 0): prefill of 4,096.
GOALS = {("INT4", 1): 550, ("INT4", 32): 13e3, ("INT4", 128): 19e3, ("FP8", 1): 400, ("FP8", 32): 10e3,
         ("FP8", 256): 26e3, ("FP8", 0): 50e3}


def number(value):
    return f"{value:,.0f}" if value < 1000 else f"{round(value, -2):,.0f}"


def size_table(shape=LLAMA_8B):
    layers, head = shape.linear_params / 1e9, shape.head_params / 1e9
    lines = ["| | |", "|---|---|",
             f"| weights of the layers, of the head | {layers:.3f}e9, {head:.3f}e9 |",
             f"| bytes a step: INT4 g128 with an 8-bit head, FP8 | {layers * 4.125 / 8 + head:.2f} GB, "
             f"{layers + head:.2f} GB |",
             f"| multiply-adds a token, linears and head | {layers + head:.2f}e9 |",
             f"| multiply-adds a token and position seen, attention | {shape.attention_flops(1) / 2e6:.3f}e6 |",
             f"| bytes of the KV cache a position: 16-bit, 8-bit | {shape.kv_bytes(2):,}, {shape.kv_bytes(1):,} |"]
    for word in SETS:
        int4, fp8 = ([launches(kernels, shape, rows) for rows in (1, 128)] for kernels in SETS[word])
        lines.append(f"| launches a decode step of 1 and of 128 rows, {word}: INT4; FP8 | "
                     f"{int4[0]:,} and {int4[1]:,}; {fp8[0]:,} and {fp8[1]:,} |")
    w8a8 = [launches(FP8_W8A8, shape, rows) for rows in (1, 128)]
    lines.append(f"| the same, FP8 today with `--cuda-w8a8` | {w8a8[0]:,} and {w8a8[1]:,} |")
    return "\n".join(lines)


def rate_row(what, batch, rate, roofline, goal, own):
    """`rate` of a device and kernels; `own`: the goals' kernels of this format on H200."""
    index = 0 if what.startswith("INT4") else 1
    rates = [number(rate(device, SETS[word][index])) for device in DEVICES for word in SETS]
    ratio = f"{number(goal)} | {own / goal:.2f}" if goal else "- | -"
    return f"| {what} | {batch} | " + " | ".join(rates) + f" | {roofline} | {ratio} |"


def rate_table():
    columns = [f"{device.name}: {word}" for device in DEVICES for word in SETS]
    lines = ["| | batch | " + " | ".join(columns) + " | H200: roofline | goal | goals' kernels / goal |",
             "|" + "---|" * (len(columns) + 5)]
    for goal in SETS["goals"]:
        for batch in (1, 32, 128) if goal.name == "INT4" else (1, 32, 256):
            lines.append(rate_row(f"{goal.name} decode", batch, lambda device, kernels: decode_rate(device, kernels, batch),
                                  number(roofline_of(H200, goal, batch)), GOALS[goal.name, batch],
                                  decode_rate(H200, goal, batch)))
        lines.append(rate_row(f"{goal.name} prefill, 4,096 tokens", 1, prefill_rate, "-", GOALS.get((goal.name, 0)),
                              prefill_rate(H200, goal)))
    return "\n".join(lines)


def part_table():
    lines = ["| H200, ms of a step | batch | linears | attention | head | rest |", "|---|---|---|---|---|---|"]
    for index in (0, 1):
        for word, kernels in ((word, SETS[word][index]) for word in SETS):
            for batch in (1, 32, 128 if kernels.name == "INT4" else 256):
                parts = decode_seconds(H200, kernels, LLAMA_8B, batch, 1024, 1)
                lines.append(f"| {kernels.name}, {word} | {batch} | " +
                             " | ".join(f"{1e3 * part:.2f}" for part in parts) + " |")
    return "\n".join(lines)


def measured():
    """(format, sequences; 0: prefill) -> tokens a second, from what tests/gpu/run wrote on the H200, the latest of each."""
    rows = [row for file in ("before.json", "result.json") for row in json.loads((MEASURED / file).read_text())["rows"]]
    return {(row["variant"].split(",")[0].split("-")[0].upper(), 0 if row["op"] == "prefill" else row["rows"]):
            row["tokens_per_s"] for row in rows
            if row["op"] in ("decode", "prefill") and row["variant"].count(",") == 1}  # without a flag


def short_row(what, batch, figures, goal):
    cells = [number(figure) if figure else "-" for figure in figures]
    return f"| {what} | {batch} | " + " | ".join(cells) + f" | {number(goal) if goal else '-'} |"


def short_table():
    """README's: what was measured, then predictions; the last set of kernels is what the code does today."""
    found = measured()
    lines = ["| tokens/s on an H200 | sequences | measured | predicted | goals' kernels, predicted | roofline | goal |",
             "|---|---|---|---|---|---|---|"]
    for goal, today in zip(SETS["goals"], list(SETS.values())[-1]):
        for batch in (1, 32, 128) if goal.name == "INT4" else (1, 32, 256):
            lines.append(short_row(f"{goal.name} decode", batch,
                                   [found[goal.name, batch], decode_rate(H200, today, batch), decode_rate(H200, goal, batch),
                                    roofline_of(H200, goal, batch)], GOALS[goal.name, batch]))
        lines.append(short_row(f"{goal.name} prefill, 4,096 tokens", 1,
                               [found[goal.name, 0], prefill_rate(H200, today), prefill_rate(H200, goal), None],
                               GOALS.get((goal.name, 0))))
    return "\n".join(lines)


def tables():
    return {"sizes": size_table(), "rates": rate_table(), "parts": part_table()}


def pages():
    """Each page with the tables that it shows."""
    return {PAGE: tables(), README: {"predictions": short_table()}}


def with_tables(page, shown=None):
    """The page with what lies between its marks replaced by `shown`, or by tables(). ValueError names a mark that is missing."""
    for name, table in (tables() if shown is None else shown).items():
        begin = BEGIN.format(name)
        if page.count(begin) != 1 or END not in page[page.index(begin):]:
            raise ValueError(f"needed one '{begin}' and '{END}' after it")
        head, rest = page.split(begin)
        page = f"{head}{begin}\n{table}\n{END}{rest.split(END, 1)[1]}"
    return page


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        for path, shown in pages().items():
            path.write_text(with_tables(path.read_text(), shown))
    elif not sys.argv[1:]:
        print("\n\n".join(tables().values()))
    else:
        sys.exit(__doc__)
