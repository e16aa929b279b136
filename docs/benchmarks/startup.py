#!/usr/bin/env python3
"""How long `nibble serve` takes from its start to SERVING, and what memory it needs: from the model file and from the
packed cache, each with the file in the page cache ("warm") and evicted from it ("cold"). Rounds are interleaved.

    python docs/benchmarks/startup.py --nibble build/nibble --model models/SmolLM2-135M-Instruct.Q4_1.gguf --rounds 7

Several --nibble compare programs; one that knows no --packed-cache is measured without. Markdown to stdout: median
(smallest to largest). Linux only; eviction is posix_fadvise(DONTNEED), which needs no root but evicts nothing while
another process maps the file.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

POLL_SECONDS = 0.0005
LIMIT_SECONDS = 300


def evict(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_through(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def memory_mib(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    return {name: int(kib[name]) / 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}


def start_once(nibble, model, cache, folder, threads, more=()):
    """Starts, waits for SERVING, stops: seconds and MiB."""
    ports, log = folder / "ports.json", folder / "log"
    ports.unlink(missing_ok=True)
    command = [nibble, "serve", "--model", model, "--port-file", ports, "--threads", threads]
    command += ["--listen", "127.0.0.1:0", "--metrics-listen", "off"]
    command += ["--packed-cache", cache] if cache else []
    command += more
    with open(log, "wb") as out:
        begin = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=out)
        while not ports.exists():
            if process.poll() is not None or time.perf_counter() - begin > LIMIT_SECONDS:
                process.kill()
                raise SystemExit(f"{nibble} does not serve:\n{log.read_text()}")
            time.sleep(POLL_SECONDS)
        row = {"serving_ms": 1e3 * (time.perf_counter() - begin), **memory_mib(process.pid)}
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_SECONDS)
    for line in log.read_text().splitlines():
        if line.startswith("{") and json.loads(line)["event"] == "weights":
            event = json.loads(line)
            row.update(weights_ms=event["ms"], origin=event["from"], packed_mib=event["bytes"] / 2**20)
    return row


def knows_cache(nibble):
    help_text = subprocess.run([nibble, "serve", "--help"], capture_output=True, text=True, check=True)
    return "--packed-cache" in help_text.stdout


def cell(rows, key):
    values = [row[key] for row in rows if key in row]
    if not values:
        return "-"
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", action="append", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-cold", action="store_true", help="leave the page cache alone")
    args = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        cases = []
        for i, nibble in enumerate(args.nibble):
            cases.append((nibble, None, "model file", []))
            if knows_cache(nibble):
                cache = folder / f"{i}.packed"
                first = start_once(nibble, args.model, cache, folder, args.threads)
                size = cache.stat().st_size
                print(f"{nibble}: {first['packed_mib']:.1f} MiB packed, cache {size / 2**20:.1f} MiB, model file "
                      f"{os.path.getsize(args.model) / 2**20:.1f} MiB; the start that wrote it: "
                      f"{first['serving_ms']:.0f} ms\n")
                cases.append((nibble, cache, "packed cache", []))
                cases.append((nibble, cache, "packed cache, shared", ["--share-weights"]))
        for round_number in range(args.rounds):
            for temperature in ("warm",) if args.no_cold else ("cold", "warm"):
                for nibble, cache, origin, more in cases if round_number % 2 == 0 else cases[::-1]:
                    for path in filter(None, (args.model, cache)):
                        evict(path) if temperature == "cold" else read_through(path)
                    row = start_once(nibble, args.model, cache, folder, args.threads, more)
                    assert origin.startswith(row.get("origin", origin)), row
                    rows.setdefault((nibble, origin, temperature), []).append(row)
    print("| program | weights from | page cache | to SERVING, ms | of it weights, ms | peak RSS, MiB | RSS serving, MiB "
          "| of it private |\n|---|---|---|---|---|---|---|---|")
    for (nibble, origin, temperature), found in rows.items():
        print(f"| {nibble} | {origin} | {temperature} | {cell(found, 'serving_ms')} | {cell(found, 'weights_ms')} | "
              f"{cell(found, 'VmHWM')} | {cell(found, 'VmRSS')} | {cell(found, 'RssAnon')} |")


if __name__ == "__main__":
    main()
