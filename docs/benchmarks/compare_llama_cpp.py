#!/usr/bin/env python3
"""nibble bench beside llama.cpp's batched-bench, in interleaved rounds on the same files, threads and shapes.

  compare_llama_cpp.py --llama-bin DIR --model A.gguf [--model B.gguf] [--nibble build/nibble] [--threads 2]
                       [--prompt-tokens 512] [--generate-tokens 128] [--batch 1,8,32] [--rounds 5] [--json FILE]

A round runs every engine once on every file, the order turned round from one round to the next, so that what the
machine does meanwhile falls on both. Both engines get the same work: N prompts prefilled together (prefill), then all N
sequences decoded with the prompts as context (decode); rates are sums over the N. What counts is `ratio`, the median
over the rounds of nibble's rate through llama.cpp's in the same round. Prints Markdown; --json keeps every round.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}"
        )
    return done.stdout


def nibble_rates(args, model):
    """{(test, batch): tokens a second}"""
    out = run(
        [
            args.nibble,
            "bench",
            "--model",
            model,
            "--prompt-tokens",
            args.prompt_tokens,
            "--generate-tokens",
            args.generate_tokens,
            "--batch",
            args.batch,
            "--threads",
            args.threads,
            "--repeat",
            1,
            "--output",
            "json",
            *args.nibble_args.split(),
        ]
    )
    return {
        (r["test"], r["batch"]): r["tokens_per_second"]["median"]
        for r in json.loads(out)["results"]
    }


def llama_rates(args, model):
    largest = max(int(b) for b in args.batch.split(","))
    out = run(
        [
            pathlib.Path(args.llama_bin) / "llama-batched-bench",
            "-m",
            model,
            "-c",
            largest * (args.prompt_tokens + args.generate_tokens),
            "-b",
            2048,
            "-ub",
            512,
            "-npp",
            args.prompt_tokens,
            "-ntg",
            args.generate_tokens,
            "-npl",
            args.batch,
            "-t",
            args.threads,
            "--output-format",
            "jsonl",
        ]
    )
    rates = {}
    for line in out.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            rates["prefill", row["pl"]] = row["speed_pp"]
            rates["decode", row["pl"]] = row["speed_tg"]
    return rates


ENGINES = {"nibble": nibble_rates, "llama.cpp": llama_rates}


def measure(args):
    """[{model, test, batch, nibble: [rate a round], llama.cpp: [...]}]"""
    rows = {}
    for number in range(args.rounds):
        for model in args.model:
            order = list(ENGINES) if number % 2 == 0 else list(reversed(ENGINES))
            for engine in order:
                for (test, batch), rate in ENGINES[engine](args, model).items():
                    key = (pathlib.Path(model).name, test, batch)
                    rows.setdefault(key, {"model": key[0], "test": test, "batch": batch})
                    rows[key].setdefault(engine, []).append(rate)
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr, flush=True)
    return list(rows.values())


def summarize(row):
    ours, theirs = row["nibble"], row["llama.cpp"]
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {
        **row,
        "median": {e: statistics.median(row[e]) for e in ENGINES},
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def markdown(rows):
    lines = [
        "| file | test | batch | nibble, tokens/s | llama.cpp, tokens/s | ratio (min to max of the rounds) |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["model"], r["test"] != "prefill", r["batch"])):
        lines.append(
            f"| {r['model']} | {r['test']} | {r['batch']} | {r['median']['nibble']:.1f} | "
            f"{r['median']['llama.cpp']:.1f} | {r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f}) |"
        )
    return "\n".join(lines)


def machine():
    names = [
        line.split(":", 1)[1].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", required=True, help="a GGUF file; may be given again"
    )
    parser.add_argument("--llama-bin", required=True, help="folder of llama-batched-bench")
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument(
        "--nibble-args", default="", help="more flags for nibble bench, such as --cpu-isa=avx2"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--generate-tokens", type=int, default=128)
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    before = machine()
    if before["load_before"] > 0.3 * before["cores"]:
        print(
            f"load {before['load_before']} on {before['cores']} cores: not idle. llama.cpp's threads "
            "spin at barriers and lose far more than their share; do not publish these ratios",
            file=sys.stderr,
        )
    rows = [summarize(row) for row in measure(args)]
    print(
        f"{before['cpu']}, {args.threads} threads of {before['cores']} cores, {args.prompt_tokens} prompt tokens, "
        f"{args.generate_tokens} generated, {args.rounds} interleaved rounds; load before: {before['load_before']}\n"
    )
    print(markdown(rows))
    if args.json:
        shapes = {
            k: getattr(args, k) for k in ("threads", "prompt_tokens", "generate_tokens", "rounds")
        }
        pathlib.Path(args.json).write_text(
            json.dumps({"machine": before, **shapes, "results": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
