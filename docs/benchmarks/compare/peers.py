"""Brings the peers: by package name from the registries, built and converted once, into .peers/ (ignored by git)."""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess

NODE_PACKAGE = "node-llama-cpp@3.22.1"  # carries a git bundle of the llama.cpp release it is built on
TARGETS = ("llama-batched-bench", "llama-bench", "llama-quantize")
# Its CPU path as built for this machine. Repacked weights (GGML_CPU_REPACK) are its default; said here to be seen.
CMAKE = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_CPU_REPACK=ON", "-DBUILD_SHARED_LIBS=OFF",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
         "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF")  # fmt: skip


class Missing(Exception):
    """An engine that cannot be had here, and why."""


def run(command, folder=None):
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Missing(f"needed the program {command[0]}: install it") from None
    if done.returncode != 0:
        raise Missing(f"{' '.join(command)}: exit {done.returncode}\n{(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def llama_cpp(cache, say, jobs=None):
    """The folder of llama.cpp's programs and what they are: (path, version). Minutes, once."""
    source, build = cache / "llama.cpp", cache / "llama-build"
    if not (source / "CMakeLists.txt").exists():
        say(f"bringing llama.cpp out of {NODE_PACKAGE}")
        package = cache / "node-llama-cpp"
        shutil.rmtree(package, ignore_errors=True)
        shutil.rmtree(source, ignore_errors=True)
        package.mkdir(parents=True)
        archive = run(["npm", "pack", "--silent", NODE_PACKAGE], package).split()[-1]
        run(["tar", "xzf", archive], package)
        run(["git", "clone", "--quiet", package / "package/llama/gitRelease.bundle", source])
        shutil.copy(package / "package/llama/binariesGithubRelease.json", cache / "llama-release.json")
    if not all((build / "bin" / name).exists() for name in TARGETS):
        say("building llama.cpp (minutes)")
        run(["cmake", "-S", source, "-B", build, "-G", "Ninja", *CMAKE])
        run(["cmake", "--build", build, "-j", jobs or os.cpu_count(), "--target", *TARGETS])
    release = json.loads((cache / "llama-release.json").read_text())["release"]
    commit = run(["git", "-C", source, "rev-parse", "--short", "HEAD"]).strip()
    return build / "bin", f"llama.cpp {release} ({commit}, of {NODE_PACKAGE}); {' '.join(CMAKE[:3])}"


def openvino():
    """Its version. The package is one of requirements.txt."""
    try:
        return f"openvino-genai {importlib.metadata.version('openvino-genai')}"
    except importlib.metadata.PackageNotFoundError:
        raise Missing("needed the Python package openvino-genai, of docs/benchmarks/requirements.txt") from None


def requantized(cache, programs, model, say):
    """The model's weights as Q4_0 by llama.cpp's own tool: its repacked fast path."""
    path = cache / "models" / (model.stem.removesuffix(".Q4_1") + ".Q4_0.gguf")
    if not path.exists():
        say(f"requantizing {model.name} to Q4_0")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(f"{path}.part")
        run([programs / "llama-quantize", "--allow-requantize", model, part, "Q4_0"])
        part.rename(path)
    return path


def synthetic(cache, model, say):
    """The file of the 1B shape, the same for all engines."""
    path = cache / "models" / "llama-1b-shape.Q4_0.gguf"
    if not path.exists():
        from compare import synthetic as writer

        say("writing the 1B shape")
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(path, model)
    return path
