"""Every reference case of CAE passes, a twisted one is refused; the teacher of CAE v2 is read from a run."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mim_jax.errors import ConfigError, VerifyError
from mim_jax.interop import frozen
from mim_jax.interop.imported import config_of, write_run
from mim_jax.interop.verify import discover, verify
from mim_jax.methods import registry
from mim_jax.methods.cae_v2 import CAEv2
from mim_jax.training.runs import fresh_variables

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


def test_the_teacher_is_the_encoder_of_a_run(tmp_path):
    method = CAEv2.tiny()
    source = tmp_path / "run"
    method = dataclasses.replace(method, teacher=dataclasses.replace(method.teacher, source=str(source)))
    shapes = jax.eval_shape(method.teacher.start, jax.random.key(0))
    source.mkdir()
    with pytest.raises(ConfigError, match="is not a run .no config.json."):
        frozen.read(method, shapes)
    source.rmdir()

    model = {key: value for key, value in dataclasses.asdict(method.teacher.model).items() if key != "precision"}
    config = config_of("mae", {"model": {**model, "drop_path_rate": 0.1}, "data": pixels(method)})
    run = registry.build(config)
    variables = fresh_variables(config, run)
    write_run(source, config, run, variables, {})
    found = frozen.read(method, shapes)
    assert jax.tree.structure(found) == jax.tree.structure({"teacher": shapes["teacher"]})
    jax.tree.map(np.testing.assert_array_equal, found["teacher"], variables.params["encoder"])

    deeper = dataclasses.replace(method.teacher, model=dataclasses.replace(method.teacher.model, depth=3))
    with pytest.raises(ConfigError, match="method.teacher.model.depth is 3, but the encoder in .* has 2"):
        frozen.check(dataclasses.replace(method, teacher=deeper))
    with pytest.raises(ConfigError, match="method.teacher.source is empty"):
        frozen.check(CAEv2.tiny())


def pixels(method: CAEv2) -> dict:
    return {"mean": method.teacher.mean, "std": method.teacher.std}
