"""The engines of a run: which of them can be had here, with which files, in which versions."""

import pathlib
import subprocess
import sys

from compare import peers
from compare.engines import LlamaCpp, Nibble, OpenVino
from compare.rows import LLAMA_1B, SMOLLM

ROOT = pathlib.Path(__file__).resolve().parents[3]


def output_of(command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False).stdout


def bring(args, say):
    """(engines, {model: {"Q4_1": path, ..}}, {engine: version}, {engine: why it is missing})"""
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
                engine, versions[name] = getter(args, files, say)
                engines.append(engine)
            except peers.Missing as why:
                missing[name] = str(why)
    if any(row.model == LLAMA_1B for row in args.chosen_rows):
        files[LLAMA_1B]["Q4_0"] = peers.synthetic(args.cache, args.model, say)
    return engines, files, versions, missing


def bring_llama_cpp(args, files, say):
    programs, version = peers.llama_cpp(args.cache, say)
    files[SMOLLM]["Q4_0"] = peers.requantized(args.cache, programs, args.model, say)
    return LlamaCpp(programs, args.threads), version


def bring_openvino(args, _files, _say):
    version = peers.openvino()
    return OpenVino(args.threads), version


def server_command(args):
    """server.py without the shape of the row."""
    programs = ["--nibble", args.nibble, "--ghz", args.ghz]
    return [sys.executable, "-m", "compare.server", *programs, "--threads", args.threads]
