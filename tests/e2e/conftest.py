"""Fixtures: the binary (NIBBLE_BIN), the model (NIBBLE_MODEL), Python stubs of proto/, and running servers."""

import importlib.resources
import json
import os
import pathlib
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
MODEL_NAME = "SmolLM2-135M-Instruct.Q4_1"


def _generate_stubs():
    """proto/nibble/v1 to Python, into a folder of this run that leads sys.path."""
    from grpc_tools import protoc

    folder = tempfile.mkdtemp(prefix="nibble-stubs-")
    files = sorted(str(p) for p in (ROOT / "proto" / "nibble" / "v1").glob("*.proto"))
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"-I{well_known}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            *files,
        ]
    )
    if code != 0:
        raise RuntimeError(f"protoc ended with {code} on {files}")
    sys.path.insert(0, folder)


_generate_stubs()  # before the test files import nibble.v1

from client import Client  # noqa: E402
from nibble_process import NibbleServer  # noqa: E402


def binary_path():
    return pathlib.Path(os.environ.get("NIBBLE_BIN", ROOT / "build" / "nibble")).absolute()


def model_path():
    return pathlib.Path(
        os.environ.get("NIBBLE_MODEL", ROOT / "models" / f"{MODEL_NAME}.gguf")
    ).absolute()


@pytest.fixture(scope="session")
def binary():
    path = binary_path()
    if not path.exists():
        pytest.skip(f"no program at {path}: run `make build` or set NIBBLE_BIN")
    return path


@pytest.fixture(scope="session")
def model():
    path = model_path()
    if not path.exists():
        pytest.skip(f"no model at {path}: run `make model` or set NIBBLE_MODEL")
    return path


@pytest.fixture(scope="session")
def server(binary, model, tmp_path_factory):
    """The server most tests share. Each leaves it idle; none stops it."""
    running = NibbleServer(binary, model, tmp_path_factory.mktemp("server"))
    yield running
    running.stop()


@pytest.fixture
def client(server):
    """Its client; the test must end with nothing running, nothing waiting and no block in use."""
    with Client(server.target) as one:
        yield one
        one.wait_idle()


@pytest.fixture
def serve(binary, model, tmp_path_factory):
    """serve(max_running=1, ...): a server of this test's own."""
    servers = []

    def start(**flags):
        servers.append(NibbleServer(binary, model, tmp_path_factory.mktemp("own"), **flags))
        return servers[-1]

    yield start
    for one in servers:
        one.stop()


@pytest.fixture(scope="session")
def recorded():
    """What float32 arithmetic continues 30 prompts with: tests/oracle/record.py."""
    return json.loads(
        (ROOT / "tests" / "oracle" / "recorded" / "smollm2_135m_q4_1.json").read_text()
    )["sequences"]
