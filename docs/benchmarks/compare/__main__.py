"""nibble beside llama.cpp and OpenVINO GenAI on this machine: brings the peers, runs all interleaved,
writes OUT/results.json, results.md and plots. Exits 0 whatever was measured: a figure is never a gate.

  docs/benchmarks/run [--quick] [--rows table,plot] [--engines nibble,llama.cpp,openvino] [--rounds 5] [--threads 2]
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import sys
import time

from compare import machine, measure, report, summary
from compare.contestants import ROOT, bring, output_of, server_command
from compare.rows import choose

ENGINES = ("nibble", "llama.cpp", "openvino")


def say(text):
    print(text, file=sys.stderr, flush=True)


def arguments():
    parser = argparse.ArgumentParser(prog="docs/benchmarks/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--rows", default="all", help="names and groups (table, plot, all), with commas between")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds, no plots' rows, the first setting of each peer")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--nibble", type=pathlib.Path, default=ROOT / "build/nibble")
    parser.add_argument("--ghz", type=pathlib.Path, default=ROOT / ".tools/bin/ghz")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/benchmarks/results")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / ".peers")
    parser.add_argument("--prefix", default="", help="words before each engine's command, such as 'numactl -N 0'")
    args = parser.parse_args()
    args.engines = args.engines.split(",")
    for name in args.engines:
        if name not in ENGINES:
            parser.error(f"--engines: found {name!r}, needed some of {', '.join(ENGINES)}")
    try:
        args.chosen_rows = choose(args.rows.split(","), args.quick)
    except ValueError as error:
        parser.error(str(error))
    if args.quick:
        args.rounds = min(args.rounds, 2)
    return args


ROOFLINE_SHAPES = (  # of `nibble bench`: prefill, batched decode, a long context
    ["--prompt-tokens", "512", "--generate-tokens", "0"],
    ["--prompt-tokens", "0", "--context", "128", "--generate-tokens", "64", "--batch", "1,8,32"],
    ["--prompt-tokens", "0", "--context", "4096", "--generate-tokens", "32"],
)


def roofline_bench(args):
    """`nibble bench --output json` over ROOFLINE_SHAPES, as if of one run; None where it has no roofline column."""
    if args.quick or "--no-roofline" not in output_of([args.nibble, "bench", "--help"]):
        return None
    say("roofline of nibble")
    common = ["--model", args.model, "--threads", args.threads, "--repeat", 3, "--output", "json"]
    outs = [output_of([*shlex.split(args.prefix), args.nibble, "bench", *shape, *common]) for shape in ROOFLINE_SHAPES]
    benches = [json.loads(out) for out in outs if out]
    return benches and {"machine": benches[0]["machine"], "results": [r for b in benches for r in b["results"]]}


def relative(text):
    return text.replace(f"{ROOT}/", "").replace(sys.executable, "python")


def compare(args):
    """(rows, what is written as JSON)"""
    started, failures = time.monotonic(), []
    engines, files, versions, missing = bring(args, say)
    rows = args.chosen_rows
    if "nibble" not in versions or not args.ghz.exists():
        if not args.ghz.exists():
            missing["ghz"] = f"{args.ghz}: not found; make tools"
        rows = [row for row in rows if not row.server]
    for name, why in missing.items():
        say(f"missing, left out: {name}: {why}")
    about, before = machine.describe(), machine.ticks()
    runner = measure.Runner(files, shlex.split(args.prefix), server_command(args))
    runner.progress = measure.Progress(measure.total(runner, engines, rows, args.rounds, not args.quick))
    trials, chosen = measure.choose_settings(runner, engines, rows, not args.quick, failures)
    figures, rates = measure.run_rounds(runner, engines, rows, chosen, args.rounds, failures)
    return rows, {
        "command": shlex.join(["docs/benchmarks/run", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "minutes": (time.monotonic() - started) / 60,
        "machine": about,
        "noise": machine.noise(before, machine.ticks(), about),
        "versions": versions,
        "missing": missing,
        "threads": args.threads,
        "rounds": args.rounds,
        "engines": [engine.name for engine in engines],
        "failures": [relative(text) for text in failures],
        "trials": trials,
        "chosen": {row: {e: s.name for e, s in by.items()} for row, by in chosen.items()},
        "commands": [relative(text) for text in runner.commands.values()],
        "summaries": [summary.summarize(r, figures[r.name]) for r in rows if figures[r.name]],
        "rates": rates,
        "roofline": roofline_bench(args) if "nibble" in versions else None,
    }


def main():
    args = arguments()
    args.cache.mkdir(parents=True, exist_ok=True)
    write(args.out, *compare(args))
    return 0


def write(folder, rows, run):
    folder.mkdir(parents=True, exist_ok=True)
    text = report.document(run)
    try:
        from compare import plots

        drawn = plots.draw(folder, rows, run["summaries"], run["roofline"])
        text += "".join(f"\n![{name}]({name})\n" for name in drawn)
    except ImportError as error:
        say(f"missing, left out: plots: {error}")
    (folder / "results.json").write_text(json.dumps(run, indent=1) + "\n")
    (folder / "results.md").write_text(text)
    print(text)
    say(f"written to {folder}")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(pathlib.Path(__file__).resolve().parents[1])  # for the workers
    for twin in [name for name in os.environ if name.startswith("NIBBLE_")]:
        del os.environ[twin]
    sys.exit(main())
