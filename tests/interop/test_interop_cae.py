"""Every reference case of CAE passes, a twisted one is refused; the teacher of CAE v2 is read from a run."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mim_jax.errors import ConfigError, VerifyError
from mim_jax.interop import frozen
from mim_jax.interop.verify import discover, verify
from mim_jax.methods.cae_v2 import CAEv2

CASES = {  # and what no difference may reach: a few times what a CPU showed, far below the cases' tolerances
    "pretrain": 4e-6,
    "pretrain_projection_a": 4e-6,
    "finetune": 3e-6,
    "attentive_probe": 2e-5,
    "mask_statistics.json": 1e-12,
}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "goldens" / "cae"


@pytest.mark.parametrize("name, measured", CASES.items())
def test_reference_case_passes(folder, name, measured):
    report = verify(folder / name)
    assert report.ok and report.worst < measured, [row for row in report.rows if not row.ok]


def test_no_case_is_left_out(folder):
    assert {path.name for path in discover(folder)} == set(CASES)


def test_another_alignment_encoder_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder / "pretrain", tmp_path / "cae" / "pretrain")
    weights = load_file(copy / "weights.safetensors")
    weights["alignment_encoder.norm.weight"] = weights["alignment_encoder.norm.weight"] * 1.01
    (copy / "weights.safetensors").chmod(0o644)
    save_file(weights, copy / "weights.safetensors")
    with pytest.raises(VerifyError, match="alignment_encoder.norm.weight' is not 'encoder.norm.weight"):
        verify(copy)


def test_the_teacher_is_the_encoder_of_a_run(tmp_path, monkeypatch):
    method = CAEv2.tiny()
    method = dataclasses.replace(method, teacher=dataclasses.replace(method.teacher, source=str(tmp_path)))
    shapes = jax.eval_shape(method.teacher.start, jax.random.key(0))
    encoder = jax.tree.map(lambda s: np.full(s.shape, 0.5, np.float32), shapes["teacher"])
    run = SimpleNamespace(variables=SimpleNamespace(params={"encoder": {**encoder, "mask_token": np.zeros(3)}}))
    trained = SimpleNamespace(name="mae", model=dataclasses.replace(method.teacher.model, drop_path_rate=0.1))
    monkeypatch.setattr(frozen, "load_run", lambda source: run)
    monkeypatch.setattr(frozen, "configs", SimpleNamespace(load_json=lambda path: None))
    monkeypatch.setattr(frozen, "registry", SimpleNamespace(build=lambda config: trained))
    with pytest.raises(ConfigError, match="is not a run .no config.json."):
        frozen.read(method, shapes)
    (tmp_path / "config.json").write_text("{}")
    assert jax.tree.structure(frozen.read(method, shapes)) == jax.tree.structure({"teacher": shapes["teacher"]})
    trained.model = dataclasses.replace(trained.model, depth=3)
    with pytest.raises(ConfigError, match="method.teacher.model.depth is 1, but the encoder in .* has 3"):
        frozen.check(method)
    with pytest.raises(ConfigError, match="method.teacher.source is empty"):
        frozen.check(CAEv2.tiny())
