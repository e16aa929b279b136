"""tests/gpu/run: builds or takes a prebuilt folder, runs every stage, prints one table, writes JSON."""
import argparse
import datetime
import os
import pathlib
import shlex
import subprocess
import sys
import time

from gpu_day import device, figures, plan, report, stage

RESULTS = pathlib.Path("docs/benchmarks/gpu")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="tests/gpu/run", description="Tests, sanitizer, sweep and end-to-end rates on this machine's GPU. Exit code: 0 "
        "when every stage ended well or was skipped, 1 when one did not or there is no GPU, 2 for wrong usage.")
    parser.add_argument("--build-dir", type=pathlib.Path, metavar="DIR", help="take the programs of DIR/bin, built before "
                        "or packed by tests/gpu/pack; without it they are built first, into build/cuda")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help=f"for result.json, table.txt, log.txt; default: "
                        f"{RESULTS}/DAY-DEVICE")
    parser.add_argument("--minutes", type=float, default=14, help="of the whole day, the build's too; what does not fit is "
                        "left out and told (default: %(default)s)")
    parser.add_argument("--only", metavar="WORDS", help="stages whose name has one of these words, such as test,sweep")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="of the build (default: one a core)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, with limits and commands")
    parser.add_argument("--rehearse", action="store_true", help="sweep, peers and a bench, tiny and on the CPU, to test "
                        "this script where there is no GPU; needs --build-dir and --out")
    choices = parser.parse_args(arguments)
    if choices.minutes <= 0 or choices.jobs < 1:
        parser.error("--minutes and --jobs: needed numbers above 0")
    if choices.rehearse and (choices.build_dir is None or choices.out is None):
        parser.error("--rehearse: needed --build-dir and --out")
    return choices


def git(*arguments):
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def environment(folder, kind):
    """For our programs: libraries packed beside them first, a cuBLASLt last. Others' (torch's) get what was given."""
    given = dict(os.environ)
    if kind in ("build", "peer"):
        return given
    packed = folder / "lib"
    if packed.is_dir():
        given["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(packed.resolve()), given.get("LD_LIBRARY_PATH", "")]))
    given["LD_LIBRARY_PATH"] = device.library_path(environment=given)
    return given


def plan_choices(choices, gpu, folder):
    return plan.Choices(bin=(folder / "bin").resolve(), build=choices.build_dir is None,
                        device="cpu" if choices.rehearse else "cuda:0", jobs=choices.jobs, small=choices.rehearse,
                        architecture=gpu.architecture() if gpu else "")


def chosen(stages, only):
    if only is None:
        return stages
    words = [word for word in only.split(",") if word]
    return [one for one in stages if one.kind == "build" or any(word in one.name for word in words)]


def stages_of(choices, gpu, folder):
    decided = plan_choices(choices, gpu, folder)
    programs = plan.test_programs(decided.bin)
    stages = plan.plan(decided, programs)
    if choices.rehearse:
        stages = [one for one in stages if one.kind in ("test", "sweep", "bench", "peer")]
    return chosen(stages, choices.only)


def print_plan(choices, folder, out):
    stages = stages_of(choices, None, folder)
    print(f"{len(stages)} stages, in this order, for {choices.minutes:g} minutes in all:", file=out)
    for one in stages:
        print(f"  at most {one.limit_s:3} s  {one.name}: {shlex.join(one.command)}", file=out)
    if not any(one.kind == "test" for one in stages):
        print(f"  and, once they are built, each gpu_*_test of {folder}/bin, by itself and under compute-sanitizer", file=out)


def run_day(choices, gpu, folder, out_folder, log):
    deadline = time.monotonic() + 60 * choices.minutes
    ceiling = figures.ceiling_of(gpu.name) if gpu else None
    about = {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain", "-uno") != "",
             "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    outcomes, done = [], set()
    waiting = stages_of(choices, gpu, folder)
    while waiting:
        one = waiting.pop(0)
        done.add(one.name)
        outcome = stage.run(one, environment(folder, one.kind), deadline - time.monotonic())
        outcomes.append(outcome)
        print(report.stage_lines([outcome]), file=log, flush=True)
        rows = figures.rows_of(outcomes, ceiling)
        report.write(out_folder, gpu, ceiling, outcomes, rows, about)
        if one.kind == "build":  # now there are programs
            waiting = [later for later in stages_of(choices, gpu, folder) if later.name not in done]
            if outcome.verdict != "ok":
                break
    return outcomes, figures.rows_of(outcomes, ceiling), ceiling


def main(arguments):
    choices = parse(arguments)
    folder = choices.build_dir or pathlib.Path("build/cuda")
    if choices.dry_run:
        print_plan(choices, folder, sys.stdout)
        return 0
    gpu = None
    if not choices.rehearse:
        try:
            gpu = device.find()
        except device.NoGpu as why:
            print(f"tests/gpu/run: no GPU: {why}; --dry-run prints what would be done", file=sys.stderr)
            return 1
    if choices.build_dir is not None and not (folder / "bin" / "nibble").exists():
        print(f"tests/gpu/run: --build-dir: {folder}/bin has no nibble; needed a folder built with the target gpu_day or "
              "packed by tests/gpu/pack", file=sys.stderr)
        return 2
    day = datetime.date.today().isoformat()
    out_folder = choices.out or RESULTS / f"{day}-{gpu.name.replace(' ', '-').lower()}"
    outcomes, rows, ceiling = run_day(choices, gpu, folder, out_folder, sys.stderr)
    print(report.text(gpu, ceiling, outcomes, rows))
    print(f"written: {out_folder}/result.json, table.txt, log.txt")
    return 0 if all(outcome.verdict in ("ok", "skipped") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
