"""Every reference case of SimMIM passes; a damaged copy does not."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mim_jax.errors import VerifyError
from mim_jax.interop.verify import discover, verify

CASES = {  # and what no difference may reach
    "vit_shared_rel": 2e-6,
    "swin": 3e-6,
    "swinv2_norm_target": 1e-5,
    "norm_targets": 5e-6,
    "param_groups.json": 1e-12,
    "mask_statistics.json": 1e-12,
}


@pytest.fixture(scope="module")
def goldens(shared):
    return shared / "goldens" / "simmim"


@pytest.mark.parametrize("name, measured", CASES.items())
def test_reference_case_passes(goldens, name, measured):
    report = verify(goldens / name)
    failed = [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    assert not failed and report.ok
    assert report.worst < measured


def test_no_case_is_left_out(goldens):
    assert {path.name for path in discover(goldens)} == set(CASES)


@pytest.fixture
def copy(goldens, tmp_path):
    return lambda name: shutil.copytree(goldens / name, tmp_path / "simmim" / name)


def test_swapped_windows_masks_and_merging_are_noticed(copy):
    folder = copy("swin")
    weights = load_file(folder / "weights.safetensors")
    mask = "encoder.layers.0.blocks.1.attn_mask"
    weights[mask] = np.ascontiguousarray(weights[mask][::-1])  # compared, not used
    merging = "encoder.layers.0.downsample.reduction.weight"
    quarters = np.split(weights[merging], 4, axis=1)
    weights[merging] = np.concatenate([quarters[i] for i in (0, 2, 1, 3)], axis=1)  # rows first
    save_file(weights, folder / "weights.safetensors")
    failed = {row.name for row in verify(folder).rows if not row.ok}
    assert {f"{mask} (fixed table)", "reconstruction", "features", "loss"} <= failed


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(encoder_stride=32), "encoder_stride 32, but the encoder's is"),
        (dict(arch="swinv9"), "config.arch 'swinv9' is not one of vit, swin, swinv2"),
        (dict(drop_path=0.1), "drop_path 0.1 needs the draws"),
        (dict(image_size=[32, 64], mask_patch_size=16), "images of .64, 64. pixels, but config.image_size .32, 64."),
    ],
)
def test_contradictions_are_refused(copy, change, words):
    folder = copy("swin")
    content = json.loads((folder / "case.json").read_text())
    content["config"] |= change
    (folder / "case.json").write_text(json.dumps(content))
    with pytest.raises(VerifyError, match=words):
        verify(folder)
