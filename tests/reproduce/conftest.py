"""A published row at a scale that a test can run: MAE on the embedded digits, one block, three epochs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conftest_rows import TINY  # noqa: E402

from mim_jax.reproduce.recipe import Options  # noqa: E402
from mim_jax.results import files  # noqa: E402


@pytest.fixture(scope="session")
def rows():
    return files.load()


@pytest.fixture
def tiny(tmp_path):
    """Options of a run that takes seconds."""

    def options(**changes):
        found = dict(scale="cifar10", workdir=str(tmp_path / "run"), source="digits:train", eval_source="digits:test")
        return Options(**{**found, "epochs": 6.0, "overrides": TINY, **changes})

    return options
