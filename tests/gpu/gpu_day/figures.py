"""Rows of the day's table out of what stages printed: time, GB/s, TFLOP/s, and the share of what the device can do."""
import dataclasses
import json

import gpu_model
from gpu_day import plan

CEILINGS = {"H100": gpu_model.H100, "H200": gpu_model.H200}
EIGHT_BIT = ("fp8", "int8")  # formats whose products the device does at twice bf16's rate


@dataclasses.dataclass
class Row:
    op: str
    variant: str
    shape: str
    rows: int
    context: int
    microseconds: float
    gb_per_s: float
    tflops: float
    share: float | None = None           # of the roofline: the larger of the two limits over the time
    times_cublas: float | None = None    # how many times as fast as cuBLAS bf16
    tokens_per_s: float | None = None
    goal: float | None = None            # tokens a second, on H200


def ceiling_of(name):
    """The device's, of gpu_model; None where nobody has told its."""
    for word, ceiling in CEILINGS.items():
        if word in name:
            return ceiling
    return None


def json_lines(text):
    """The objects among the lines: a run that was cut off has half a line at its end."""
    found = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def share_of(bytes_moved, flops, seconds, variant, ceiling):
    if ceiling is None or seconds <= 0:
        return None
    peak = ceiling.fp8_flops if variant.split("-")[0] in EIGHT_BIT else ceiling.bf16_flops
    return max(bytes_moved / ceiling.bandwidth, flops / peak) / seconds


def op_row(line, ceiling, peer=False):
    seconds = line["microseconds"] * 1e-6
    share = share_of(line["bytes"], line["flops"], seconds, line["variant"], ceiling)
    return Row(line["op"], ("peer: " if peer else "") + line["variant"], line["shape"], line["rows"], line["context"],
               line["microseconds"], line["bytes"] / seconds / 1e9, line["flops"] / seconds / 1e12, share)


def op_rows(text, ceiling, peer=False):
    rows = []
    for line in json_lines(text):
        try:
            rows.append(op_row(line, ceiling, peer))
        except (KeyError, TypeError, ZeroDivisionError):
            continue  # not one of ours
    return rows


def model_of(command):
    """("llama-3.1-8b", "int4-g128") of a bench command's --model."""
    words = command[command.index("--model") + 1].split(":")
    return words[1], words[2]


def bench_rows(text, command, ceiling):
    """The table's rows of one `nibble bench --output json`; none where it printed none."""
    start = text.find("{")
    if start < 0:
        return []
    try:
        report = json.loads(text[start:])
    except json.JSONDecodeError:
        return []
    shape, form = model_of(command)
    rows = [bench_row(result, report["model"], shape, form, ceiling) for result in report["results"]]
    for row in rows:
        row.variant += "".join(f", {flag[len('--cuda-'):]}" for flag in plan.FLAGS if flag in command)
    return rows


def step_bytes(model, shape):
    """Of the weights that a step reads: all but the embedding, of which it gathers rows. All are of one format."""
    if shape != "llama-3.1-8b":
        return model["weights_bytes"]
    read = gpu_model.LLAMA_8B.linear_params + gpu_model.LLAMA_8B.head_params
    return model["weights_bytes"] * read / (read + gpu_model.LLAMA_8B.head_params)


def bench_row(result, model, shape, form, ceiling):
    rate = result["tokens_per_second"]["median"]
    batch, decode = result["batch"], result["test"] == "decode"
    # Of decode, the middle of what it generates.
    context = result["context"] + result["generate_tokens"] // 2 if decode else result["prompt_tokens"]
    steps = rate / batch if decode else rate / (batch * result["prompt_tokens"])
    moved = step_bytes(model, shape) + batch * context * model["kv_bytes_per_token"]
    row = Row(result["test"], f"{form}, {result['kv_cache_type']} cache", shape, batch, context, 1e6 / steps,
              moved * steps / 1e9, 0.0, tokens_per_s=rate)
    if shape != "llama-3.1-8b":
        return row
    llama = gpu_model.LLAMA_8B
    params = llama.linear_params + llama.head_params
    flops = 2 * params * (1 if decode else llama.linear_params / params)
    flops += llama.attention_flops(context if decode else context / 2)
    row.tflops = flops * rate / 1e12
    name = "FP8" if form.startswith("fp8") else "INT4"
    row.goal = gpu_model.GOALS.get((name, batch if decode else 0))
    row.share = share_of(moved, flops * rate / steps, 1 / steps, form, ceiling)
    return row


def compare_with_cublas(rows):
    """Fills times_cublas of linears where the same shape and rows were timed as a peer's bf16."""
    cublas = {(row.shape, row.rows): row.microseconds for row in rows
              if row.op == "linear" and row.variant == "peer: bf16 (cuBLAS)"}
    for row in rows:
        peer = cublas.get((row.shape, row.rows))
        if row.op == "linear" and peer:
            row.times_cublas = peer / row.microseconds
    return rows


def rows_of(outcomes, ceiling):
    """Of all stages, also of those that failed or ran out of time: what they printed before counts."""
    rows = []
    for outcome in outcomes:
        if outcome.kind in ("sweep", "peer"):
            rows += op_rows(outcome.stdout, ceiling, outcome.kind == "peer")
        elif outcome.kind == "bench":
            rows += bench_rows(outcome.stdout, outcome.command, ceiling)
    return compare_with_cublas(rows)
