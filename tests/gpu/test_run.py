"""tests/gpu/run as a whole, with programs that are scripts and a GPU that an nvidia-smi of ours claims."""

import json
import os
import pathlib
import shutil
import stat
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
RUN = HERE / "run"


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/bash\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(*arguments, path=""):
    environment = {**os.environ, "PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    return subprocess.run([RUN, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def machine(tmp_path):
    """A build folder and a folder for PATH."""
    program(tmp_path / "path" / "nvidia-smi", "echo 'NVIDIA H200, 580.1, 143771, 9.0'")
    program(tmp_path / "path" / "compute-sanitizer", "exit 0")
    program(tmp_path / "built" / "bin" / "nibble", f"cat {HERE}/recorded/bench.json")
    program(tmp_path / "built" / "bin" / "op_sweep", f"[[ $2 == linear ]] && cat {HERE}/recorded/sweep.jsonl; exit 0")
    program(tmp_path / "built" / "bin" / "gpu_good_test", "exit 0")
    return tmp_path


def day(machine, *arguments):
    done = run("--build-dir", machine / "built", "--out", machine / "out", *arguments, path=machine / "path")
    return done, json.loads((machine / "out" / "result.json").read_text())


def test_without_a_gpu_one_line_says_so(tmp_path):
    program(tmp_path / "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    done = run(path=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "tests/gpu/run: no GPU: NVIDIA-SMI has failed; --dry-run prints what would be done\n"


def test_a_dry_run_prints_the_plan_and_needs_no_gpu():
    done = run("--dry-run")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("build: .ci/compile-cuda", "sweep linear", "decode int4-g128 1,8,32", "prefill fp8", "peers"):
        assert word in done.stdout


def test_a_good_day(machine):
    done, result = day(machine)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {stage["name"]: stage["verdict"] for stage in result["stages"]}
    assert verdicts["test gpu_good_test"] == verdicts["memcheck gpu_good_test"] == "ok"
    assert verdicts["peers"] == "skipped" or verdicts["peers"] == "ok"
    assert result["device"]["name"] == "NVIDIA H200"
    assert {row["op"] for row in result["rows"]} >= {"linear", "decode", "prefill", "copy"}
    assert "of roofline" in done.stdout and "11,000" in done.stdout


def test_a_stage_that_fails_loses_nothing_of_the_others(machine):
    program(machine / "built" / "bin" / "gpu_bad_test", "echo 'a kernel is wrong'; exit 1")
    program(machine / "built" / "bin" / "nibble", "echo 'nibble: INTERNAL: gone' >&2; exit 1")
    done, result = day(machine)
    assert done.returncode == 1
    why = {stage["name"]: stage["why"] for stage in result["stages"] if stage["verdict"] == "failed"}
    assert why["test gpu_bad_test"] == "exit code 1: a kernel is wrong"
    assert why["prefill fp8"] == "exit code 1: nibble: INTERNAL: gone"
    assert {row["op"] for row in result["rows"]} == {"linear", "copy", "decode_attention"}


def test_no_time_starts_nothing_and_tells_all(machine):
    done, result = day(machine, "--minutes", "0.01")
    assert done.returncode == 1
    assert {stage["verdict"] for stage in result["stages"]} == {"not started"}
    assert done.stdout.count("the day's time is used up") == len(result["stages"])


def test_only_what_was_asked_for(machine):
    _, result = day(machine, "--only", "prefill,sweep rows")
    assert [stage["name"] for stage in result["stages"]] == [
        "sweep rows", "prefill int4-g128", "prefill int4-g128 --cuda-wide-rows", "prefill fp8", "prefill fp8 --cuda-w8a8",
        "prefill fp8 --cuda-w8a8 --cuda-wide-rows"]


def test_libraries_packed_beside_the_programs_are_found_first(machine):
    (machine / "built" / "lib").mkdir()
    program(machine / "built" / "bin" / "gpu_good_test", 'echo "$LD_LIBRARY_PATH" >&2')
    day(machine, "--only", "test gpu_good")
    assert f"{machine}/built/lib" in (machine / "out" / "log.txt").read_text()


def test_torch_is_not_given_our_libraries(machine):
    (machine / "built" / "lib").mkdir()
    program(machine / "path" / "python3", """[[ $1 == -m && $2 == gpu_day.peers ]] || exec /usr/bin/python3 "$@"
echo "path: $LD_LIBRARY_PATH" >&2""")
    day(machine, "--only", "peers")
    log = (machine / "out" / "log.txt").read_text()
    assert "path: " in log and str(machine / "built") not in log


def test_a_folder_without_programs_is_wrong_usage(machine):
    done = run("--build-dir", machine, path=machine / "path")
    assert done.returncode == 2 and "has no nibble" in done.stderr


@pytest.mark.parametrize("arguments", [("--minutes", "0"), ("--rehearse",), ("--nonsense",)])
def test_wrong_flags_are_wrong_usage(arguments):
    assert run(*arguments).returncode == 2


def pack(*arguments):
    return subprocess.run([HERE / "pack", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_pack_takes_programs_and_libraries_but_glibcs(tmp_path):
    (tmp_path / "build" / "bin").mkdir(parents=True)
    for name in ("nibble", "op_sweep", "gpu_a_test"):
        shutil.copy(shutil.which("openssl"), tmp_path / "build" / "bin" / name)  # with libraries of its own
    done = pack(tmp_path / "out", tmp_path / "build")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out" / "bin")) == ["gpu_a_test", "nibble", "op_sweep"]
    libraries = os.listdir(tmp_path / "out" / "lib")
    assert "libcrypto.so.3" in libraries and not [name for name in libraries if name.startswith(("libc.so", "ld-linux"))]
    packed = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "out" / "lib")}
    subprocess.run([tmp_path / "out" / "bin" / "nibble", "version"], env=packed, check=True, capture_output=True, timeout=60)


def test_pack_says_what_is_missing(tmp_path):
    done = pack(tmp_path / "out", tmp_path)
    assert done.returncode == 1 and "has no nibble and op_sweep" in done.stderr
    assert pack().returncode == 2
