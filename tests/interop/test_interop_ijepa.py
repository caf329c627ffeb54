"""Every reference case of I-JEPA passes; the order of blocks and images matters."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mim_jax.errors import VerifyError
from mim_jax.interop.verify import discover, verify

CASES = {"pretrain": 2e-6, "pretrain_a": 2e-6, "sincos": 1e-7, "schedules.json": 2e-6}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "goldens" / "ijepa"


@pytest.mark.parametrize("name, measured", CASES.items())
def test_reference_case_passes(folder, name, measured):
    report = verify(folder / name)
    assert report.ok and report.worst < measured, [row for row in report.rows if not row.ok]


def test_no_case_is_left_out(folder):
    assert {path.name for path in discover(folder)} == {*CASES, "mask_statistics.json"}


def test_other_blocks_fail_and_too_many_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder / "pretrain_a", tmp_path / "ijepa" / "pretrain_a")
    inputs = dict(np.load(copy / "inputs.npz"))
    np.savez(copy / "inputs.npz", **{**inputs, "target_ids": inputs["target_ids"][::-1]})
    failed = {row.name for row in verify(copy).rows if not row.ok}
    assert {"pred", "target"} <= failed and not failed & {"context_features", "teacher_features", "loss"}
    np.savez(copy / "inputs.npz", **{**inputs, "target_ids": inputs["target_ids"][:1]})
    with pytest.raises(VerifyError, match="1 lists in target_ids, but target_blocks is 2"):
        verify(copy)
