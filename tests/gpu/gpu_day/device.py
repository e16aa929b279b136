"""The GPU of this machine, and the cuBLASLt that the program will look for."""
import dataclasses
import glob
import os
import subprocess

QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader,nounits"]
# Where a machine with a toolkit or with torch keeps it.
LIBRARY_FOLDERS = ("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib", "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib",
                   "/usr/lib/python3*/site-packages/nvidia/*/lib", "/usr/local/lib/python3*/*-packages/nvidia/*/lib")
LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12")


@dataclasses.dataclass(frozen=True)
class Gpu:
    name: str
    driver: str
    memory_mib: int
    capability: str

    def architecture(self):
        """As nvcc names it: 9.0 has instructions of its own."""
        digits = self.capability.replace(".", "")
        return f"{digits}a-real" if digits == "90" else f"{digits}-real"


class NoGpu(Exception):
    """Why there is none to use."""


def parse(text):
    """The first line of QUERY's output. NoGpu where there is none, or it is not as asked for."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise NoGpu("nvidia-smi lists no device")
    fields = [field.strip() for field in lines[0].split(",")]
    if len(fields) != 4 or not fields[2].isdigit():
        raise NoGpu(f"nvidia-smi says '{lines[0]}', needed name, driver, MiB and compute capability")
    return Gpu(fields[0], fields[1], int(fields[2]), fields[3])


def find(run=subprocess.run):
    try:
        done = run(QUERY, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise NoGpu("nvidia-smi was not found, so there is no NVIDIA driver") from None
    except subprocess.TimeoutExpired:
        raise NoGpu("nvidia-smi gave no answer in 60 s") from None
    if done.returncode != 0:
        raise NoGpu((done.stderr or done.stdout).strip().splitlines()[0] if (done.stderr or done.stdout).strip()
                    else f"nvidia-smi ended with {done.returncode}")
    return parse(done.stdout)


def library_path(folders=LIBRARY_FOLDERS, environment=None):
    """LD_LIBRARY_PATH with the folder of a cuBLASLt at its end; as it is where none is found."""
    given = (os.environ if environment is None else environment).get("LD_LIBRARY_PATH", "")
    for library in LIBRARIES:
        for pattern in folders:
            for folder in sorted(glob.glob(pattern)):
                if os.path.exists(os.path.join(folder, library)):
                    return f"{given}:{folder}" if given else folder
    return given
