"""`nibble quantize --method` that is killed, and the same command again: it goes on, to the same bytes."""

import os
import pty
import re
import signal
import subprocess

import pytest
from conftest import ROOT
from nibble_process import clean_environment, run

TINY = ROOT / "tests" / "data" / "tiny" / "tiny-f16.gguf"
GPTQ = ["--method", "gptq", "--scheme", "int4-asym-g64", "--calibration-windows", "12"]
AWQ = ["--method", "awq", "--scheme", "int4-asym-g64", "--calibration-windows", "12", "--layout", "awq"]


def command(output, *method):
    return ["quantize", "--model", TINY, "--output", output, *method]


def stopped(binary, args, percent, with_signal):
    """Runs it on a terminal and sends the signal once its bar says so much: exit code and what it said."""
    terminal, of_child = pty.openpty()
    process = subprocess.Popen(
        [str(binary), *map(str, args)],
        stdout=subprocess.DEVNULL,
        stderr=of_child,
        env=clean_environment(),
    )
    os.close(of_child)
    said, sent = "", False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # what a terminal says when nobody is left on it
            break
        if not piece:
            break
        said += piece.decode(errors="replace")
        bars = re.findall(r"\] (\d+)%", said)
        if not sent and bars and int(bars[-1]) >= percent:
            process.send_signal(with_signal)
            sent = True
    os.close(terminal)
    assert sent, said
    return process.wait(timeout=60), said


def files_under(path):
    if path.is_dir():
        return {p.name: p.read_bytes() for p in sorted(path.iterdir())}
    return path.read_bytes()


# Four layers of seven linears: a layer is finished at 25 %, surely once the next one's first linear is.
@pytest.mark.parametrize("method,percent", [(GPTQ, 28), (GPTQ, 78), (AWQ, 53)])
def test_killed_at_any_layer_it_goes_on_to_the_same_bytes(binary, tmp_path, method, percent):
    whole, output = tmp_path / "whole", tmp_path / "killed"
    assert run(binary, *command(whole, *method)).returncode == 0
    code, _ = stopped(binary, command(output, *method), percent, signal.SIGKILL)
    assert code == -signal.SIGKILL and not output.exists()
    kept = len(list((tmp_path / "killed.resume").glob("layer-000?")))
    assert kept >= percent // 25
    again = run(binary, *command(output, *method))
    assert again.returncode == 0, again.stderr
    assert f"resuming at layer {kept + 1} of 4, {kept} done" in again.stderr
    assert files_under(output) == files_under(whole)
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "killed"}


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_what_it_keeps(binary, tmp_path, with_signal):
    output = tmp_path / "out.gguf"
    code, said = stopped(binary, command(output, *GPTQ), 28, with_signal)
    assert code == 130 and re.search(r"\d of 4 layers are kept in \S+out\.gguf\.resume", said), said
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf.resume"]


def test_other_work_is_refused_and_can_begin_anew(binary, tmp_path):
    output = tmp_path / "out.gguf"
    stopped(binary, command(output, *GPTQ), 28, signal.SIGKILL)
    for more, what in ((["--seed", "7"], "options is"), (["--calibration", __file__], "options is")):
        other = run(binary, *command(output, *GPTQ, *more))
        assert other.returncode == 1 and what in other.stderr and "--no-resume" in other.stderr, other.stderr
    anew = run(binary, *command(output, *GPTQ, "--seed", "7", "--no-resume"))
    assert anew.returncode == 0 and "resuming" not in anew.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_damaged_work_is_done_again(binary, tmp_path):
    whole, output = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert run(binary, *command(whole, *GPTQ)).returncode == 0
    stopped(binary, command(output, *GPTQ), 53, signal.SIGKILL)
    layer = tmp_path / "out.gguf.resume" / "layer-0000"
    layer.write_bytes(layer.read_bytes()[:-9])
    again = run(binary, *command(output, *GPTQ))
    assert again.returncode == 0 and "layer-0000 is damaged" in again.stderr
    assert output.read_bytes() == whole.read_bytes()


def test_a_run_that_looks_at_no_text_keeps_nothing(binary, tmp_path):
    refused = run(binary, *command(tmp_path / "x.gguf", "--no-resume"))
    assert refused.returncode == 2 and "--no-resume: is of a --method" in refused.stderr
    assert run(binary, *command(tmp_path / "x.gguf", "--method", "rtn")).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
