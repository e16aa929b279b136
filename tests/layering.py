#!/usr/bin/env python3
"""Checks who includes whom: cli -> server -> engine -> kernels, server -> proto, and the rooms inside engine."""
import pathlib
import re
import sys

# room -> prefixes it may include, beside itself
ALLOWED = {
    "kernels": [],
    "engine/base": ["kernels/check.h"],
    "engine/weights": ["engine/base", "kernels/quant", "kernels/half.h", "kernels/fp8.h", "kernels/check.h"],
    "engine/text": ["engine/base", "engine/request.h", "kernels/check.h"],
    "engine/scheduling": ["engine/base", "engine/request.h", "engine/batch.h", "engine/observer.h", "kernels/check.h"],
    "engine/model": ["engine/base", "engine/request.h", "engine/batch.h", "engine/weights", "kernels"],
    "engine/eval": ["engine/base", "engine/batch.h", "engine/request.h", "engine/model/model_runner.h",
                    "engine/model/logits_runner.h", "engine/config_bounds.h", "engine/weights/mapped_file.h",
                    "engine/weights/partial_file.h", "engine/weights/printable.h", "kernels/check.h"],
    "engine/quantize": ["engine/base", "engine/batch.h", "engine/model/logits_runner.h", "engine/model/model_config.h",
                        "engine/model/model_runner.h", "engine/model/rope_table.h", "engine/weights", "kernels/quant",
                        "kernels/fp8.h", "kernels/half.h", "kernels/check.h"],
    "engine": ["kernels"],
    "proto": [],
    "server": ["engine", "proto", "nibble", "google", "kernels/check.h"],
    "cli": ["server", "engine", "kernels", "proto", "nibble", "google"],
}
# header prefix -> the only rooms that may include it
CONFINED = {
    "grpc": ["server", "cli"],
    "google/protobuf": ["server", "cli", "proto"],
    "prometheus/": ["server"],
    "cuda": ["kernels/cuda"],
    "cublas": ["kernels/cuda"],
    "engine/text/bridge": ["engine/text"],
    "kernels/cpu": ["kernels/cpu"],
    "kernels/cuda": ["kernels/cuda"],
    "CLI/": ["cli"],
}
# What device code, and all that it includes of ours, may not include: nvcc would have to compile it.
NOT_FOR_DEVICE = ("absl/", "gtest/", "spdlog/", "nlohmann/")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.M)
ROOTS = ("kernels", "engine", "proto", "server", "cli", "nibble", "google")


def room_of(path):
    parts = path.split("/")
    inner = "/".join(parts[:2])
    return inner if len(parts) > 2 and inner in ALLOWED else parts[0]


def breaches(root):
    for top in ("kernels", "engine", "proto", "server", "cli"):
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in (".h", ".cc", ".cu", ".cuh") or "target" in file.parts:
                continue
            path = file.relative_to(root).as_posix()
            room = room_of(path)
            for include in INCLUDE.findall(file.read_text()):
                for prefix, homes in CONFINED.items():
                    if include.startswith(prefix) and not any(path == h or path.startswith(h + "/") for h in homes):
                        yield f"{path} includes {include}: only {', '.join(homes)} may"
                if include.split("/")[0] not in ROOTS:
                    continue
                target = room_of(include)
                if target == room or (room == "engine" and target.startswith("engine/")):
                    continue
                if not any(include == a or include.startswith(a + "/") or include == a for a in ALLOWED[room]):
                    yield f"{path} includes {include}: {room} may include {', '.join(ALLOWED[room]) or 'nothing'}"


def reached(root, path, seen):
    """Every include of `path`, and of what it includes of ours."""
    for include in INCLUDE.findall((root / path).read_text()):
        yield path, include
        if (root / include).is_file() and include not in seen:
            seen.add(include)
            yield from reached(root, include, seen)


def device_breaches(root):
    for file in sorted((root / "kernels/cuda").glob("*.cu*")):
        path = file.relative_to(root).as_posix()
        for by, include in reached(root, path, {path}):
            if include.startswith(NOT_FOR_DEVICE):
                yield f"{path} reaches {include}" + (f" through {by}" if by != path else "") + ": not for device code"
        if re.search(r"\basm\b", re.sub(r"//.*", "", file.read_text())) and not file.name.startswith("ptx"):
            yield f"{path} has asm: only kernels/cuda/ptx*.cuh may"
    for file in sorted((root / "kernels").rglob("*.cu*")):
        if file.parent != root / "kernels/cuda" and file.suffix in (".cu", ".cuh"):
            yield f"{file.relative_to(root)}: device code lives in kernels/cuda"


if __name__ == "__main__":
    top = pathlib.Path(sys.argv[1])
    found = list(breaches(top)) + list(device_breaches(top))
    print("\n".join(found) or "layering holds")
    sys.exit(1 if found else 0)
