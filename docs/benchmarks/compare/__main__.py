"""nibble beside llama.cpp and OpenVINO GenAI on this machine: brings the peers, runs all interleaved, writes OUT/results.json,
results.md and plots. Exits 0 whatever was measured: a figure is never a gate.

  docs/benchmarks/run [--quick] [--rows table,plot] [--engines nibble,llama.cpp,openvino] [--rounds 5] [--threads 2]
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from compare import machine, measure, peers, report, summary
from compare.engines import LlamaCpp, Nibble, OpenVino
from compare.rows import LLAMA_1B, SMOLLM, choose

ENGINES = ("nibble", "llama.cpp", "openvino")
ROOT = pathlib.Path(__file__).resolve().parents[3]


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


def output_of(command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False).stdout


def bring(args):
    """(engines, files, versions, missing)"""
    engines, versions, missing = [], {}, {}
    files = {SMOLLM: {"Q4_1": args.model}, LLAMA_1B: {}}
    if "nibble" in args.engines:
        if args.nibble.exists():
            has_context = "--context" in output_of([args.nibble, "bench", "--help"])
            engines.append(Nibble(args.nibble, args.threads, has_context))
            commit = output_of(["git", "-C", ROOT, "describe", "--always", "--dirty"]).strip()
            versions["nibble"] = f"{output_of([args.nibble, 'version']).strip()} ({commit})"
        else:
            missing["nibble"] = f"{args.nibble}: not found; make build"
    for name, getter in (("llama.cpp", bring_llama_cpp), ("openvino", bring_openvino)):
        if name in args.engines:
            try:
                engine, versions[name] = getter(args, files)
                engines.append(engine)
            except peers.Missing as why:
                missing[name] = str(why)
    if any(row.model == LLAMA_1B for row in args.chosen_rows):
        files[LLAMA_1B]["Q4_0"] = peers.synthetic(args.cache, args.model, say)
    return engines, files, versions, missing


def bring_llama_cpp(args, files):
    programs, version = peers.llama_cpp(args.cache, say)
    files[SMOLLM]["Q4_0"] = peers.requantized(args.cache, programs, args.model, say)
    return LlamaCpp(programs, args.threads), version


def bring_openvino(args, files):
    version = peers.openvino()
    return OpenVino(args.threads), version


def server_command(args):
    return [sys.executable, "-m", "compare.server", "--nibble", args.nibble, "--ghz", args.ghz, "--threads", args.threads]


def roofline_bench(args):
    """The JSON of one `nibble bench` over the shapes of the roofline plot; None where nibble is not there."""
    out = output_of([*shlex.split(args.prefix), args.nibble, "bench", "--model", args.model, "--prompt-tokens", 512,
                     "--generate-tokens", 64, "--batch", "1,8,32", "--threads", args.threads, "--repeat", 3,
                     "--output", "json"])  # fmt: skip
    return json.loads(out) if out else None


def relative(text):
    return text.replace(f"{ROOT}/", "").replace(sys.executable, "python")


def main():
    args = arguments()
    args.cache.mkdir(parents=True, exist_ok=True)
    started, failures = time.monotonic(), []
    engines, files, versions, missing = bring(args)
    rows = args.chosen_rows
    if not args.ghz.exists() or "nibble" in missing:
        missing.update({"ghz": f"{args.ghz}: not found; make tools"} if not args.ghz.exists() else {})
        rows = [row for row in rows if not row.server]
    for name, why in missing.items():
        say(f"missing, left out: {name}: {why}")
    about, before = machine.describe(), machine.ticks()

    runner = measure.Runner(files, shlex.split(args.prefix), server_command(args), say)
    runs = [(row, e) for row in rows for e in measure.engines_of(row, engines)]
    tries = sum(n for n in (len(runner.settings(e, row)) for row, e in runs) if n > 1)
    runner.progress = measure.Progress((0 if args.quick else tries) + args.rounds * len(runs))
    trials, chosen = {}, {r.name: {e.name: runner.settings(e, r)[0] for e in measure.engines_of(r, engines)} for r in rows}
    if not args.quick:
        trials, chosen = measure.try_settings(runner, engines, rows, failures)
    figures, rates = measure.run_rounds(runner, engines, rows, chosen, args.rounds, failures)
    bench = roofline_bench(args) if "nibble" in versions else None

    summaries = [summary.summarize(row, figures[row.name]) for row in rows if figures[row.name]]
    run = {"command": shlex.join(["docs/benchmarks/run", *sys.argv[1:]]), "date": datetime.date.today().isoformat(),
           "minutes": (time.monotonic() - started) / 60, "machine": about, "versions": versions, "missing": missing,
           "noise": machine.noise(before, machine.ticks(), about), "threads": args.threads, "rounds": args.rounds,
           "engines": [e.name for e in engines], "failures": [relative(f) for f in failures], "trials": trials,
           "chosen": {r: {e: s.name for e, s in by.items()} for r, by in chosen.items()},
           "commands": [relative(c) for c in runner.commands.values()], "summaries": summaries, "rates": rates,
           "roofline": bench}  # fmt: skip
    write(args.out, rows, run, summaries)
    return 0


def write(folder, rows, run, summaries):
    folder.mkdir(parents=True, exist_ok=True)
    text = report.document(run, summaries)
    try:
        from compare import plots

        drawn = plots.draw(folder, rows, summaries, run["roofline"])
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
