#!/usr/bin/env python3
"""One table of all scenarios in a folder: ghz's view (NAME.json) and the server's own (NAME.before, NAME.after)."""
import json
import pathlib
import re
import sys

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


def read(path):
    """{(name, labels): value} of a Prometheus text page."""
    found = (SAMPLE.match(line) for line in path.read_text().splitlines() if not line.startswith("#"))
    return {(m[1], m[2] or ""): float(m[3]) for m in found if m}


def total(samples, name):
    return sum(value for (n, _), value in samples.items() if n == name)


def quantile(before, after, name, q):
    """Of what a histogram counted between two pages, interpolated within its bucket; None when it counted nothing."""
    counts = {}
    for (n, labels), value in after.items():
        if n == name + "_bucket":
            bound = float(re.search(r'le="([^"]+)"', labels)[1].replace("+Inf", "inf"))
            counts[bound] = counts.get(bound, 0) + value - before.get((n, labels), 0)
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] == 0:
        return None
    rank, low, below = q * counts[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            inside = counts[bound] - below
            return low if bound == float("inf") else low + (bound - low) * ((rank - below) / inside if inside else 0)
        low, below = bound, counts[bound]
    return low


def milliseconds(seconds):
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def row(folder, name):
    ghz = json.loads((folder / f"{name}.json").read_text())
    before, after = read(folder / f"{name}.before"), read(folder / f"{name}.after")
    seconds = ghz["total"] / 1e9
    tokens = total(after, "nibble_generation_tokens_total") - total(before, "nibble_generation_tokens_total")
    errors = sum(v for k, v in (ghz.get("statusCodeDistribution") or {}).items() if k != "OK")
    times = [milliseconds(quantile(before, after, f"nibble_{metric}_seconds", q))
             for metric in ("time_to_first_token", "inter_token_latency") for q in (0.5, 0.95)]
    return [name, str(ghz["count"]), str(errors), f"{seconds:.1f}", f"{tokens / seconds:.1f}", *times]


def main(folder):
    head = ["scenario", "calls", "errors", "s", "tokens/s", "TTFT p50", "p95", "ITL p50", "p95 ms"]
    order = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    names = [path.stem for path in order if path.stem != "ports"]
    if not names:
        print("no scenario left a report", file=sys.stderr)
        return 1
    rows = [head] + [row(folder, name) for name in names]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    for r in rows:
        print("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths))))
    last = read(folder / f"{names[-1]}.after")
    started, finished = total(last, "nibble_requests_started_total"), total(last, "nibble_requests_finished_total")
    if started != finished:
        print(f"FAILED: {started:.0f} requests started, {finished:.0f} finished", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
