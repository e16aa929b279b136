"""Torch as a peer: without it or its GPU one line says so; with it, here on the CPU, every line of the table comes."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from gpu_day import figures, peers

HERE = pathlib.Path(__file__).parent


def run(*arguments, torch=None):
    """`torch`: the text of a module in place of it; without, that of this python."""
    path = f"{torch}:{HERE}" if torch else str(HERE)
    return subprocess.run([sys.executable, "-m", "gpu_day.peers", *arguments], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, check=False)


@pytest.mark.parametrize("text, why", [
    ("raise ImportError('no torch')", "this python3 has no torch"),
    ("class cuda:\n    def is_available():\n        return False", "this torch sees no GPU"),
])
def test_without_torch_or_its_gpu_one_line_says_so(tmp_path, text, why):
    (tmp_path / "torch.py").write_text(text)
    done = run("cuda:0", torch=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (77, f"SKIPPED: {why}\n", "")


@pytest.mark.parametrize("arguments", [(), ("small",), ("gpu",), ("cuda:", "small"), ("cuda:0", "large"), ("cpu", "cpu")])
def test_wrong_words_are_wrong_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"peers: found '{' '.join(arguments)}', needed cpu or cuda:N, and small or not\n"


def test_a_torch_that_can_do_nothing_is_a_failure_that_names_each_peer(tmp_path):
    (tmp_path / "torch.py").write_text("float8_e4m3fn = None")
    done = run("cpu", "small", torch=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    for name in ("copy", "SDPA", *dict(peers.LINEARS)):
        assert f"{name}: module 'torch' has no attribute" in done.stderr


def test_a_real_torch_makes_every_line_on_the_cpu():
    pytest.importorskip("torch")
    done = run("cpu", "small")
    assert done.returncode == 0, done.stderr
    rows = figures.op_rows(done.stdout, None, peer=True)
    made = {(row.op, row.variant, row.rows, row.context) for row in rows}
    assert made >= {("copy", "peer: copy_", 1, 0), ("decode_attention", "peer: SDPA bf16, no pages", 2, 40),
                    ("prefill_attention", "peer: SDPA bf16, no pages", 40, 40)}
    told = {line.split(":")[0] for line in done.stderr.splitlines()}
    for name, _ in peers.LINEARS:
        assert name in told or made >= {("linear", f"peer: {name}", count, 0) for count in peers.SMALL.rows}, done.stderr
    assert all(row.microseconds > 0 for row in rows)


def test_they_print_lines_as_the_sweep_does():
    ours = json.loads((HERE / "recorded" / "sweep.jsonl").read_text().splitlines()[0])
    assert json.loads(peers.line("copy", "copy_", "1 GiB", 1, 0, 2, 0, 1.5)).keys() == ours.keys()


def test_one_that_cannot_do_a_shape_is_named_and_the_others_go_on(capsys):
    def fail():
        raise RuntimeError("no kernel\nand a trace")
    peers.attempt("int4", fail)
    assert capsys.readouterr().err == "int4: no kernel\n"


def test_rotations_are_larger_than_any_l2():
    sweep = peers.Sweep(None, "cuda:0", peers.FULL, None)
    for size in (1 << 20, 60 << 20, 1 << 30):
        assert sweep.copies_for(size) * size > 180 << 20 and sweep.copies_for(size) >= 2


def test_shapes_and_rows_are_those_of_the_sweep():
    text = (HERE / "op_sweep" / "linear.cc").read_text()
    matrices = {name: (sum(map(int, outs.split(", "))), int(cols))  # of a call: together as many rows as the peer's one
                for name, outs, cols in re.findall(r'{"(\w+)", {([\d, ]+)}, (\d+)}', text) if name != "small"}
    assert matrices == peers.FULL.linears
    assert f"return {{{', '.join(map(str, peers.FULL.rows))}}};" in text
