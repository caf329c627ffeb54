"""DMAE: sizes, the two losses, and what of the teacher is run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.methods.base import Progress
from mim_jax.methods.dmae import DMAE
from mim_jax.methods.mae import MAE
from mim_jax.models.vit_config import variant

SMALL = dict(image_size=16, patch_size=4, width=16, depth=2, heads=2)
TEACHER = dict(model=SMALL | dict(width=12, depth=3), mean=(0.5,) * 3, std=(0.25,) * 3)
METHOD = dict(decoder_width=8, decoder_depth=1, decoder_heads=2, teacher=TEACHER, blocks=(0, 1), teacher_blocks=(0, 1))


def test_reference_cases(shared):
    for file in sorted((shared / "goldens" / "dmae").glob("*/case.json")):
        report = verify(file.parent)
        assert report.ok and report.worst < 2e-6, [row for row in report.rows if not row.ok]


def test_parameter_count_and_the_part_of_the_teacher():
    method = DMAE.from_config(variant("B/16"), {})
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == 112_443_136
    teacher = shapes.frozen["teacher"]
    assert "blocks_17" in teacher and "blocks_18" not in teacher and "norm" not in teacher


@pytest.mark.parametrize("projection, feature_loss", [("linear", "l1"), ("mlp", "l2"), ("none", "l1")])
def test_losses_against_numpy(projection, feature_loss):
    same = dict(teacher=TEACHER | dict(model=SMALL)) if projection == "none" else {}
    method = DMAE.from_config(SMALL, METHOD | same | dict(projection=projection, feature_loss=feature_loss))
    batch = {"image": jax.random.normal(jax.random.key(0), (3, 16, 16, 3))}
    v = jax.jit(method.init)(jax.random.key(1), batch)
    draws = method.draw(v.params, {}, v.frozen, batch, jax.random.key(2), Progress.last())
    loss, output = jax.jit(method.forward)(v.params, {}, v.frozen, batch, draws, Progress.last())
    mae = MAE.from_config(SMALL, dict(decoder_width=8, decoder_depth=1, decoder_heads=2, target="pixel"))
    plain = jax.jit(mae.forward)(v.params, {}, {}, batch, draws, Progress.last())[0]
    np.testing.assert_allclose(output.terms["reconstruction"], plain, rtol=1e-6)
    np.testing.assert_allclose(loss, sum(output.terms.values()), rtol=1e-6)
    if projection != "none":
        return
    for i in (0, 1):
        difference = np.asarray(output.trace["features"][i]) - np.asarray(output.trace["teacher_features"][i])
        np.testing.assert_allclose(output.terms[f"features_{i}"], np.abs(difference).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(blocks=(0, 2)), "method.blocks \\(0, 2\\) must be numbers of blocks from 0 to 1"),
        (dict(teacher_blocks=(0,)), "method.teacher_blocks \\(0,\\) must be numbers"),
        (dict(projection="none"), "'none' compares features of one width"),
        (dict(projection="fc"), "method.projection 'fc' is not one of"),
        (dict(teacher=TEACHER | dict(model=SMALL | dict(patch_size=8))), "must have the same grid"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DMAE.from_config(SMALL, METHOD | settings)
