"""Every system in every weight format, as results/weights.json and docs/weights.md have it."""

from __future__ import annotations

import json

import pytest

from mim_jax.interop.matrix import COLUMNS, SUBJECTS, cells
from mim_jax.methods.registry import METHODS


@pytest.fixture(scope="module")
def published(root):
    return json.loads((root / "results" / "weights.json").read_text())


def test_every_method_is_in_the_matrix(published):
    assert {name for name, _ in SUBJECTS.values()} == set(METHODS) - {"tokenizer", "vqkd"}
    assert list(published) == list(SUBJECTS)
    for row in published.values():
        assert list(row) == ["/".join(filter(None, column)) for column in COLUMNS]
        assert not any(cell["failed"] for cell in row.values())


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_goes_out_comes_back(published, subject, torchvision_operators):
    pytest.importorskip("timm", reason="timm is not installed (extra 'interop')")
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
    found = {"/".join(filter(None, column)): cell for column, cell in cells(subject)}
    assert not {name: cell.failed for name, cell in found.items() if cell.failed}
    assert {name: cell.form for name, cell in found.items()} == {
        name: cell["form"] for name, cell in published[subject].items()
    }
