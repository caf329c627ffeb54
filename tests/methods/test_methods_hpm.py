"""HPM: sizes, the share of hard patches, the ranking loss, feature targets."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.losses.ranking import ranking_loss, regression_loss
from mim_jax.masking.hard import hard_counts, hard_mask
from mim_jax.methods.base import Output, Progress
from mim_jax.methods.hpm import HPM
from mim_jax.models.vit_config import variant

SMALL = dict(image_size=16, patch_size=4, width=16, depth=1, heads=2)
DECODER = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)


def test_reference_cases(shared):
    for file in sorted((shared / "goldens" / "hpm").glob("*/case.json")):
        report = verify(file.parent)
        assert report.ok and report.worst < 3e-6, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize("name, count", [("B/16", 137_269_760), ("L/16", 354_853_376)])
def test_parameter_counts(name, count):
    method = HPM.from_config(variant(name), {})
    shapes = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count
    assert jax.tree.structure(shapes.extra["teacher"]) == jax.tree.structure(shapes.params)


def test_the_share_of_hard_patches_grows_to_a_half():
    counts = hard_counts(147, 200)
    assert len(counts) == 200 and counts[0] == 0 and counts[-1] == 73
    assert (np.diff(counts) >= 0).all()


def test_the_hardest_patches_are_always_hidden():
    scores, noise = (jax.random.uniform(jax.random.key(i), (5, 36)) for i in (0, 1))
    for hard in (0, 1, 20, 27):
        mask = jax.jit(lambda n: hard_mask(scores, noise, n, 9, (6, 6)))(hard)
        assert (mask.hidden.sum(1) == 27).all()
        top = np.argsort(scores, axis=1)[:, 36 - hard :]
        assert np.take_along_axis(np.asarray(mask.hidden), top, 1).all()
    plain = hard_mask(scores, noise, 0, 9, (6, 6))
    np.testing.assert_array_equal(plain.visible, np.sort(np.argsort(noise, axis=1)[:, :9], axis=1))


def test_masks_are_random_in_the_first_epochs_and_guided_at_the_end():
    method = HPM.from_config(SMALL, DECODER | dict(hard_epochs=50.0))
    batch = {"image": jax.random.normal(jax.random.key(0), (4, 16, 16, 3))}
    v = jax.jit(method.init)(jax.random.key(1), batch)
    scores = method.whole(v.extra["teacher"], batch["image"])[1]
    draw = jax.jit(lambda p: method.draw(v.params, v.extra, {}, batch, jax.random.key(2), p)["mask"])
    top = np.argsort(scores, axis=1)[:, -6:]
    hidden = np.asarray(draw(Progress.last()).hidden)
    assert np.take_along_axis(hidden, top, 1).all()
    assert (draw(Progress.at(0, 100, 2)).hidden.sum(1) == 12).all()


def test_ranking_loss_against_numpy():
    rng = np.random.default_rng(0)
    p, e = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    e[0, 1] = e[0, 2]  # a tie counts for nothing
    total, pairs = 0.0, 0
    for b in range(2):
        for i in range(5):
            for j in range(5):
                likely = 1 / (1 + math.exp(-(p[b, j] - p[b, i])))
                if e[b, j] > e[b, i]:
                    total, pairs = total - math.log(likely + 1e-6), pairs + 1
                elif e[b, j] < e[b, i]:
                    total, pairs = total - math.log(1 - likely + 1e-6), pairs + 1
    np.testing.assert_allclose(ranking_loss(jnp.asarray(p), jnp.asarray(e)), total / pairs, rtol=1e-5)
    np.testing.assert_allclose(ranking_loss(jnp.zeros((2, 5)), jnp.asarray(e)), math.log(2), rtol=1e-4)
    assert ranking_loss(jnp.asarray(p), jnp.zeros((2, 5))) == 0
    normal = (e - e.mean(1, keepdims=True)) / np.sqrt(e.var(1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(regression_loss(jnp.asarray(p), jnp.asarray(e)), ((p - normal) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("target, outputs", [("ema", 16), ("teacher", 8)])
def test_features_as_target(target, outputs):
    teacher = dict(model=dict(SMALL, width=8), mean=(0.5,) * 3, std=(0.25,) * 3)
    method = HPM.from_config(SMALL, DECODER | dict(target=target, teacher=teacher))
    batch = {name: jax.random.uniform(jax.random.key(0), v.array(3)) for name, v in method.views().items()}
    v = jax.jit(method.init)(jax.random.key(1), batch)
    args = (v.params, v.extra, v.frozen, batch, jax.random.key(2), Progress.last())
    loss, output = jax.jit(method.loss)(*args)
    assert np.isfinite(loss) and output.trace["pred"].shape == (3, 16, outputs)
    assert (output.trace["loss_per_patch"] <= 4 + 1e-5).all()
    assert bool(method.sources()) == (target == "teacher")
    assert "expected difficulty" in method.show(*args[:-1]).maps


def test_the_moving_average_follows_absolute_epochs():
    method = HPM.tiny()
    extra, params = {"teacher": {"w": jnp.ones(1)}}, {"w": jnp.zeros(1)}
    for epoch, decay in ((0, 0.999), (50, 0.99945), (100, 0.9999), (700, 0.9999)):
        moved = method.update(extra, params, Output(), Progress.at(epoch * 10 + 3, 8000, 10))
        np.testing.assert_allclose(moved["teacher"]["w"], decay, rtol=1e-6)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(target="hog"), "method.target 'hog' is not one of"),
        (dict(predictor_loss="none"), "method.predictor_loss 'none' is not one of"),
        (dict(hard_share=1.5), "method.hard_share 1.5 must be above 0"),
        (dict(hard_epochs=0.0), "method.hard_epochs 0.0 must be above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        HPM.from_config(SMALL, DECODER | settings)
