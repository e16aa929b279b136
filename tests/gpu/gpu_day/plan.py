"""What a GPU day does, as a list of stages: each a command with a time limit, of which none needs another's success but the build's."""
import dataclasses
import pathlib

SHAPE = "random:llama-3.1-8b"
FORMATS = ("int4-g128", "fp8")
BATCHES = ((1, 8, 32), (128, 256))  # loads apart, so that slow large ones take nothing from small ones
W8A8, DEPENDENT, WIDE = FLAGS = ("--cuda-w8a8", "--cuda-dependent-launches", "--cuda-wide-rows")  # off unless asked for
# Small shapes of every kernel: program -> names of its tests. Each must match a test that runs on a device
# (test_sanitized.py holds it), or a run of the sanitizer has looked at nothing.
SANITIZED = {
    "gpu_backend_test": "*/Int4:*LinearTest*/QkvOfThreeFormats:*LinearTest*/GateAndUp:*AStepThatIsReplayed*",
    "gpu_cache_codes_test": "*",
    "gpu_decode_attention_test": "*EqualsFloat64/OneHead",
    "gpu_dequantize_tiles_test": "*OnShapesWithTails*",
    "gpu_emulator_test": "Emulator.MultipliesMatrices*:Emulator.LoadsMatrices*:Emulator.Transposes*:Emulator.CopiesRows*",
    "gpu_norm_codes_test": "*OnRowsWithTails*:*LeavesOutRows*",
    "gpu_prefill_attention_test": "*EqualsFloat64/OneHead",
    "gpu_quantize_rows_test": "QuantizeRows.*",
    "gpu_rope_test": "Rope.*",
    "gpu_row_ops_test": "RowOps.*",
    "gpu_rows_test": "Rows.*",
    "gpu_runtime_test": "*AGraphRunsAgain*",
    "gpu_sample_test": "Sample.*",
    "gpu_sampling_test": "*ARowThatNothingCanBeDrawnFrom*",
    "gpu_step_graphs_test": "*WhatChangesBetweenReplays*:*ADrawnTokenIsTheNextStepsId*",
    "gpu_tiled_linear_test": "*Tails*:*ByWarpGroups/Int4Offsets*",
    "gpu_w8a8_test": "*FusedLaunches*/Int8Channel:*FusedLaunches*/E4m3Block:*MixedWeights*",
}
# Of these the sanitizer sees nothing, and why.
NOT_SANITIZED = {
    "gpu_generation_test": "the whole road, many minutes under the sanitizer",
    "gpu_device_memory_test": "the host's sums; no kernel",
}


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    kind: str     # "build", "test", "sweep", "peer", "bench", "sanitizer": how its output is read
    command: tuple
    limit_s: int


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the command line decided."""
    bin: pathlib.Path
    build: bool = False          # build first
    device: str = "cuda:0"
    architecture: str = ""
    jobs: int = 16
    small: bool = False          # a rehearsal
    python: str = "python3"      # one that may have torch


def build_stage(choices):
    return Stage("build", "build", (".ci/compile-cuda", str(choices.jobs), "gpu-day", choices.architecture), 600)


def test_stages(choices, programs):
    return [Stage(f"test {name}", "test", (str(choices.bin / name), "--gtest_brief=1"), 60) for name in programs]


def sweep_stages(choices):
    small = ("small",) if choices.small else ()
    limits = {"rows": 60, "attention": 90, "linear": 150}
    if not choices.small:
        limits["shapes"] = 60  # of a CUDA kernel: nothing to rehearse on a CPU
    return [Stage(f"sweep {what}", "sweep", (str(choices.bin / "op_sweep"), choices.device, what) + small, limit)
            for what, limit in limits.items()]


def bench_command(choices, model, *flags):
    return (str(choices.bin / "nibble"), "bench", "--device", choices.device, "--model", model, *flags,
            "--no-roofline", "--output", "json")


def decode_stage(choices, form, batches, *more):
    batch = ",".join(map(str, batches))
    flags = ("--prompt-tokens", "0", "--context", "1024", "--generate-tokens", "32", "--batch", batch, "--repeat", "3",
             "--kv-cache-type", "fp8", "--max-batch-tokens", "2048", *more)
    return Stage(" ".join(("decode", form, batch, *more)), "bench", bench_command(choices, f"{SHAPE}:{form}", *flags), 120)


def prefill_stage(choices, form, *more):
    flags = ("--prompt-tokens", "4096", "--generate-tokens", "0", "--repeat", "3", "--kv-cache-type", "fp8",
             "--max-batch-tokens", "2048", *more)
    return Stage(" ".join(("prefill", form, *more)), "bench", bench_command(choices, f"{SHAPE}:{form}", *flags), 90)


def bench_stages(choices):
    """Of each format as it is served by default, then with the flag that should make it faster."""
    if choices.small:
        flags = ("--prompt-tokens", "16", "--generate-tokens", "2", "--batch", "1,2", "--repeat", "1")
        return [Stage("decode smollm2-135m", "bench", bench_command(choices, "random:smollm2-135m:int4-g32", *flags), 120)]
    stages = []
    for form in FORMATS:
        stages += [decode_stage(choices, form, batches) for batches in BATCHES] + [prefill_stage(choices, form)]
        if form == "fp8":
            stages += [decode_stage(choices, form, (1, 32, 256), W8A8), prefill_stage(choices, form, W8A8),
                       prefill_stage(choices, form, W8A8, WIDE)]
        else:
            stages += [decode_stage(choices, form, BATCHES[0], DEPENDENT), decode_stage(choices, form, BATCHES[1], WIDE),
                       prefill_stage(choices, form, WIDE)]
    return stages


def peer_stage(choices):
    small = ("small",) if choices.small else ()
    return Stage("peers", "peer", (choices.python, "-m", "gpu_day.peers", choices.device) + small, 120)


def sanitizer_stages(choices, programs):
    stages = []
    for tool in ("memcheck", "racecheck"):
        for name in programs:
            if name in NOT_SANITIZED:
                continue
            stages.append(Stage(f"{tool} {name}", "sanitizer", (
                "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", str(choices.bin / name),
                "--gtest_brief=1", f"--gtest_filter={SANITIZED.get(name, '*')}"), 40))
    return stages


def plan(choices, programs):
    """All stages, what matters most first: a day that runs out of time loses the sanitizer, then FP8's rates."""
    stages = [build_stage(choices)] if choices.build else []
    stages += test_stages(choices, programs) + sweep_stages(choices)
    bench = bench_stages(choices)
    later = [stage for stage in bench if "fp8" in stage.name]
    return (stages + [stage for stage in bench if stage not in later] + [peer_stage(choices)] + later +
            sanitizer_stages(choices, programs))


def test_programs(folder):
    """gpu_*_test of a folder, by name. Before a build there are none to list."""
    return sorted(path.name for path in pathlib.Path(folder).glob("gpu_*_test"))
