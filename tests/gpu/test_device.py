"""The GPU as nvidia-smi tells it, every way of there being none, and where a cuBLASLt lies."""

import subprocess

import pytest

from gpu_day import device

H100 = "NVIDIA H100 80GB HBM3, 580.159.04, 81559, 9.0\n"


def answer(stdout="", stderr="", returncode=0):
    return lambda *_, **__: subprocess.CompletedProcess([], returncode, stdout, stderr)


def raising(error):
    def run(*_, **__):
        raise error
    return run


def test_a_device_is_read_whole():
    gpu = device.find(answer(H100))
    assert gpu == device.Gpu("NVIDIA H100 80GB HBM3", "580.159.04", 81559, "9.0")


@pytest.mark.parametrize("capability, wanted", [("9.0", "90a-real"), ("8.9", "89-real"), ("10.0", "100-real")])
def test_nvcc_is_asked_for_the_instructions_that_the_device_has(capability, wanted):
    assert device.Gpu("x", "1", 1, capability).architecture() == wanted


def test_of_several_the_first_is_taken():
    assert device.parse(H100 + "NVIDIA L4, 1, 2, 8.9\n").name.startswith("NVIDIA H100")


@pytest.mark.parametrize("run, why", [
    (raising(FileNotFoundError()), "was not found"),
    (raising(subprocess.TimeoutExpired("nvidia-smi", 60)), "no answer in 60 s"),
    (answer(), "lists no device"),
    (answer(stderr="NVIDIA-SMI has failed\nmore", returncode=9), "^NVIDIA-SMI has failed$"),
    (answer(returncode=9), "ended with 9"),
    (answer("N/A\n"), "says 'N/A'"),
])
def test_none_is_told_in_one_line(run, why):
    with pytest.raises(device.NoGpu, match=why) as caught:
        device.find(run)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_cublaslt_comes_after_what_was_given(tmp_path):
    for name in ("cuda-12", "cuda-13"):
        (tmp_path / name).mkdir()
    (tmp_path / "cuda-13" / "libcublasLt.so.13").touch()
    (tmp_path / "cuda-12" / "libcublasLt.so.12").touch()
    folders = (str(tmp_path / "cuda-*"),)
    assert device.library_path(folders, {}) == str(tmp_path / "cuda-13")
    assert device.library_path(folders, {"LD_LIBRARY_PATH": "/x"}) == f"/x:{tmp_path / 'cuda-13'}"


def test_without_one_the_path_stays_as_it_was(tmp_path):
    assert device.library_path((str(tmp_path / "*"),), {"LD_LIBRARY_PATH": "/x"}) == "/x"
