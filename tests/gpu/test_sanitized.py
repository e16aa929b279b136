"""Every run of the sanitizer looks at something: its filter matches a test of its program that runs on a device.

The emulator's programs have the same tests as those for a device, and can be asked for their names without one.
"""

import pathlib
import re
import subprocess

import pytest

from gpu_day import plan

ROOT = pathlib.Path(__file__).parents[2]
BUILT = ROOT / "build/release/tests/kernels/cuda"
SOURCES = ROOT / "tests/kernels/cuda"


def programs():
    """Those of tests/gpu/CMakeLists.txt: whoever reaches a device, and the whole road."""
    of_device = re.compile(r"emulator/gpu\.h|_world\.h")
    names = [f"gpu_{path.stem}" for path in SOURCES.glob("*_test.cc") if of_device.search(path.read_text())]
    return sorted(names) + ["gpu_generation_test"]


def emulator_only():
    """The patterns that gpu_main.cc leaves out on every device."""
    text = (ROOT / "tests/gpu/gpu_main.cc").read_text()
    patterns = re.findall(r'"([^"]+)"', text.split("kEmulatorOnly[] = {")[1].split("};")[0])
    assert "*PlantedFault*" in patterns
    return patterns


def matching(program, accepted):
    """Full names of the tests that a run with that filter has."""
    run = subprocess.run([program, "--gtest_list_tests", f"--gtest_filter={accepted}-{':'.join(emulator_only())}"],
                         check=True, capture_output=True, text=True, timeout=60)
    names, suite = [], ""
    for line in run.stdout.splitlines():
        line = line.split("#")[0].rstrip()
        if line.startswith("  "):
            names.append(suite + line.strip())
        else:
            suite = line
    return names


def test_every_program_has_a_filter_or_a_reason_to_have_none():
    assert sorted([*plan.SANITIZED, *plan.NOT_SANITIZED]) == sorted(programs())


@pytest.mark.parametrize("name", sorted(plan.SANITIZED))
def test_every_pattern_matches_a_test_of_its_program(name):
    program = BUILT / name.replace("gpu_", "cuda_")
    if not program.exists():
        pytest.skip(f"{program.relative_to(ROOT)} is not built")
    for pattern in plan.SANITIZED[name].split(":"):
        assert matching(program, pattern), pattern


def test_a_filter_of_another_program_matches_nothing():
    program = BUILT / "cuda_rope_test"
    if not program.exists():
        pytest.skip(f"{program.relative_to(ROOT)} is not built")
    assert matching(program, plan.SANITIZED["gpu_sample_test"]) == []
    assert matching(program, "Rope.*") != []
