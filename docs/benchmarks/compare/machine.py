"""The machine a run was on, and how quiet it was."""

import os
import pathlib
import platform

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
         "asimd", "asimddp", "i8mm", "bf16", "sve")  # fmt: skip
QUIET_LOAD = 0.3  # of the cores
QUIET_STEAL = 0.02  # of the time


def cpuinfo(text):
    """(model name, instruction sets of FLAGS) of /proc/cpuinfo's text."""
    fields = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.machine()
    family = ", ".join(f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields)
    return name + (f" ({family})" if family else ""), [flag for flag in FLAGS if flag in flags]


def ticks():
    """(all, idle, stolen) of /proc/stat's first line."""
    return parse_ticks(pathlib.Path("/proc/stat").read_text())


def parse_ticks(text):
    values = [int(v) for v in text.splitlines()[0].split()[1:]]
    return sum(values[:8]), values[3] + values[4], values[7] if len(values) > 7 else 0


def describe():
    name, isa = cpuinfo(pathlib.Path("/proc/cpuinfo").read_text())
    kib = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    return {"cpu": name, "isa": isa, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(kib / 2**20, 1),
            "kernel": platform.release(), "load_before": round(os.getloadavg()[0], 2)}  # fmt: skip


def noise(before, after, machine):
    """What a reader must know about the run: {"steal": share, "quiet": bool}. before, after: ticks()."""
    steal = (after[2] - before[2]) / max(1, after[0] - before[0])
    quiet = machine["load_before"] <= QUIET_LOAD * machine["cores"] and steal <= QUIET_STEAL
    return {"steal": round(steal, 4), "quiet": quiet}
