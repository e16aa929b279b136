"""The day's table for people, and its JSON for docs/benchmarks/gpu."""
import dataclasses
import json

HEAD = ("op", "variant", "shape", "rows", "context", "us", "GB/s", "TFLOP/s", "of roofline", "x cuBLAS", "tokens/s", "goal")


def cell(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def cells(row):
    share = "-" if row.share is None else f"{100 * row.share:.0f} %"
    return (row.op, row.variant, row.shape, str(row.rows), str(row.context) if row.context else "-",
            cell(row.microseconds, 1), cell(row.gb_per_s, 0), cell(row.tflops, 1), share, cell(row.times_cublas, 2),
            cell(row.tokens_per_s, 0), cell(row.goal, 0))


def table(rows):
    lines = [HEAD] + [cells(row) for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    out = []
    for line in lines:
        left = [line[i].ljust(widths[i]) for i in range(3)]
        right = [line[i].rjust(widths[i]) for i in range(3, len(HEAD))]
        out.append("  ".join(left + right).rstrip())
    return "\n".join(out)


def stage_lines(outcomes):
    return "\n".join(f"{outcome.verdict:11}  {outcome.seconds:6.1f} s  {outcome.name}" +
                     (f": {outcome.why}" if outcome.why else "") for outcome in outcomes)


def heading(gpu, ceiling):
    if gpu is None:
        return "REHEARSAL on the CPU: no figure below means anything"
    about = f"{gpu.name}, driver {gpu.driver}, compute capability {gpu.capability}, {gpu.memory_mib} MiB"
    if ceiling is None:
        return f"{about}; its limits are not in docs/gpu_model.py, so no shares"
    return (f"{about}; roofline: {ceiling.bandwidth / 1e12:.1f} TB/s (a copy), {ceiling.bf16_flops / 1e12:.0f} TFLOP/s "
            f"bf16, {ceiling.fp8_flops / 1e12:.0f} for 8 bits")


def text(gpu, ceiling, outcomes, rows):
    return "\n\n".join([heading(gpu, ceiling), stage_lines(outcomes), table(rows)]) + "\n"


def record(gpu, ceiling, outcomes, rows, about):
    """JSON that a later run can be compared with. `about`: commit, time and what else the caller knows."""
    stages = []
    for outcome in outcomes:
        stage = dataclasses.asdict(outcome)
        del stage["stdout"], stage["stderr"]
        stage["seconds"] = round(outcome.seconds, 2)
        stages.append(stage)
    return {**about, "rehearsal": gpu is None, "device": dataclasses.asdict(gpu) if gpu else None,
            "ceilings": dataclasses.asdict(ceiling) if ceiling else None, "stages": stages,
            "rows": [dataclasses.asdict(row) for row in rows]}


def write(folder, gpu, ceiling, outcomes, rows, about):
    """result.json, table.txt and log.txt; called after every stage, so that a day cut off leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(record(gpu, ceiling, outcomes, rows, about), indent=1) + "\n")
    (folder / "table.txt").write_text(text(gpu, ceiling, outcomes, rows))
    log = [f"== {outcome.name}: {outcome.verdict} ==\n$ {' '.join(outcome.command)}\n{outcome.stdout}{outcome.stderr}"
           for outcome in outcomes]
    (folder / "log.txt").write_text("\n".join(log))
