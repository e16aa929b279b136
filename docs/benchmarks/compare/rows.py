"""What is measured: one Row is one line of the table."""

from dataclasses import dataclass

RATE, SHARE = "rate", "share"
SMOLLM, LLAMA_1B = "SmolLM2-135M", "Llama-1B shape"


@dataclass(frozen=True)
class Row:
    """`context` tokens are prefilled for each of `batch` sequences, then `generate` decoded for all of them together.

    test    "prefill" or "decode": which of the two spans counts; never both
    passes  within one process, whose median is that process's figure
    kind    RATE: tokens a second, nibble's through a peer's. SHARE: what is kept of the same engine's own rate when
            something else is on the machine; no peer divides it
    floor, aim   of the ratio (RATE) or of nibble's share (SHARE); None for the points of a plot
    """

    name: str
    title: str
    test: str
    context: int
    generate: int
    batch: int = 1
    passes: int = 3
    model: str = SMOLLM
    kind: str = RATE
    neighbours: int = 0
    server: bool = False
    floor: float | None = None
    aim: float | None = None


TABLE = [
    Row("prefill", "prefill, 512 tokens", "prefill", 512, 1, floor=1.4, aim=1.8),
    Row("decode-1", "decode, 1 sequence, context 128", "decode", 128, 64, floor=1.35, aim=1.75),
    Row("decode-8", "decode, 8 sequences together", "decode", 128, 64, 8, floor=2.0, aim=3.2),
    Row("decode-32", "decode, 32 sequences together", "decode", 128, 64, 32, 1, floor=2.0, aim=3.0),
    Row("neighbours", "decode, 1 sequence, two other busy processes: share of its own idle rate", "decode", 128, 64,
        kind=SHARE, neighbours=2, floor=0.45, aim=0.5),
    Row("context-4096", "decode, 1 sequence, context 4,096", "decode", 4096, 32, 1, 1, floor=1.3, aim=2.0),
    Row("1b-decode", "1B-parameter shape, decode", "decode", 128, 32, 1, 1, LLAMA_1B, floor=0.98, aim=1.05),
    Row("1b-prefill", "1B-parameter shape, prefill, 512 tokens", "prefill", 512, 1, 1, 1, LLAMA_1B, floor=1.2, aim=1.6),
    Row("server", "gRPC at concurrency 32: share of the batched decode rate", "decode", 16, 256, 32, 1,
        kind=SHARE, server=True, floor=0.9),
]

PLOT = [Row(f"batch-{b}", f"decode, {b} sequences together", "decode", 128, 64, b, 1) for b in (2, 4, 16)] + [
    Row(f"context-{c}", f"decode, 1 sequence, context {c:,}", "decode", c, 32, 1, 1) for c in (512, 1024, 2048)
]


def choose(names, quick=False):
    """Rows by name, in the order of the table: "table", "plot" and "all" are groups. ValueError names the wrong one."""
    known = {row.name: row for row in TABLE + PLOT}
    groups = {"table": list(TABLE), "plot": list(PLOT), "all": TABLE + PLOT}
    wanted = set()
    for name in names:
        if name not in known and name not in groups:
            raise ValueError(f"--rows: found {name!r}, needed some of {', '.join([*groups, *known])}")
        wanted |= {row.name for row in groups.get(name, [known.get(name)])}
    if quick and "all" in names:
        wanted -= {row.name for row in PLOT}
    return [row for row in TABLE + PLOT if row.name in wanted]
