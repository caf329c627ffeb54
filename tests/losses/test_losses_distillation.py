"""The loss of self-distillation against sums written out in NumPy and against the reference case."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.losses import distillation
from mim_jax.losses.distillation import Distillation


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    sizes = {"student": (3, 5, 7), "teacher": (3, 2, 7), "patches": (3, 2, 6, 7), "targets": (3, 2, 6, 7)}
    return {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}


def test_crops_are_compared_with_all_others(logits):
    student, teacher = logits["student"], softmax(logits["teacher"])
    pairs = [
        -(teacher[:, q] * np.log(softmax(student[:, v] / 0.1))).sum(-1).mean()
        for q in range(2)
        for v in range(5)
        if v != q
    ]
    assert len(pairs) == 8
    found = distillation.crop_loss(student, jnp.asarray(teacher, jnp.float32))
    np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-5)


def test_an_image_without_hidden_patches_counts_as_zero(logits):
    hidden = np.zeros((3, 2, 6), bool)
    hidden[0, 0, :2] = hidden[1, 1, 3] = True
    per_patch = distillation.patch_cross_entropy(logits["patches"], jax.nn.softmax(logits["targets"]))
    expected = (np.asarray(per_patch)[0, 0, :2].mean() + np.asarray(per_patch)[1, 1, 3]) / 6
    np.testing.assert_allclose(distillation.mean_per_image(per_patch, jnp.asarray(hidden)), expected, rtol=1e-6)
    assert distillation.mean_per_image(jnp.full((3, 2, 6), jnp.inf), jnp.zeros((3, 2, 6), bool)) == 0


def test_targets_are_centred_sharpened_and_without_gradient(logits):
    center = jnp.arange(7) / 10
    target = distillation.sharpened(logits["teacher"], center, 0.05)
    np.testing.assert_allclose(target, softmax((logits["teacher"] - center) / 0.05), rtol=1e-4, atol=1e-7)
    gradient = jax.grad(lambda x: distillation.sharpened(x, center, 0.05)[0, 0, 0])(logits["teacher"])
    assert not gradient.any()


@pytest.mark.parametrize("warmup, delay", [(4, 0), (1, 0), (0, 0), (3, 2), (0, 3)])
def test_temperatures_step_once_an_epoch_and_reach_both_ends(warmup, delay):
    schedule = np.concatenate([np.full(delay, 0.04), np.linspace(0.04, 0.07, warmup), np.full(9, 0.07)])[:9]
    at = jax.vmap(lambda epoch: distillation.teacher_temperature(epoch, 0.04, 0.07, warmup, delay))
    found = at(jnp.arange(9.0))
    np.testing.assert_allclose(found, schedule, rtol=1e-6)
    np.testing.assert_array_equal(at(jnp.arange(9.0) + 0.9), found)


def test_centres_move_by_the_mean_over_all_patches(logits):
    settings = Distillation(center_momentum=0.9, patch_center_momentum=0.5)
    means = settings.means((logits["teacher"], logits["targets"]))
    moved = settings.moved({"center": jnp.ones(7), "patch_center": jnp.ones(7)}, means)
    np.testing.assert_allclose(moved["center"], 0.9 + 0.1 * logits["teacher"].reshape(-1, 7).mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["patch_center"], 0.5 + 0.5 * logits["targets"].reshape(-1, 7).mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"temperature": -0.07}, "method.loss.temperature -0.07 must be positive"),
        ({"student_temperature": 0.0}, "student_temperature 0.0 must be positive"),
        ({"center_momentum": 1.5}, "center_momentum 1.5 must lie between 0 and 1"),
        ({"patch_weight": -1.0}, "patch_weight -1.0 must be 0 or more"),
        ({"temprature": 0.1}, "did you mean 'temperature'"),
    ],
)
def test_bad_settings_are_refused(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Distillation.from_section(values, "method.loss")
