"""Where the real model lies: NIBBLE_MODEL, or models/ of the checkout. Tests that need it are skipped without it."""

import os
import pathlib

import pytest

DEFAULT = pathlib.Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def model_path():
    path = os.environ.get("NIBBLE_MODEL", str(DEFAULT))
    if not os.path.exists(path):
        pytest.skip(f"no model at {path}: run `make model` or set NIBBLE_MODEL")
    return path
