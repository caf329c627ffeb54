"""MaskAlign: sizes, masks by importance, weights of layers, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.interop.verify import verify
from mim_jax.losses.layers import layer_weights
from mim_jax.masking.attention import importance_mask
from mim_jax.methods import registry
from mim_jax.methods.maskalign import MaskAlign
from mim_jax.targets.features import feature_target


def test_reference_case(shared):
    report = verify(shared / "goldens" / "maskalign" / "attention_linear_whiten")
    assert report.ok and not report.footnotes and report.worst < 2e-6


@pytest.mark.parametrize(
    "arguments, expected",
    [("", 92_734_608), (":variant=L/16", 312_546_592), (":variant=L/16,teacher_variant=L/14", 328_290_880)],
)
def test_parameter_counts(root, arguments, expected):
    method = registry.build(configs.load(str(root / "configs/maskalign/imagenet1k.py") + arguments))
    batch = {name: jax.ShapeDtypeStruct(view.array(1), jnp.float32) for name, view in method.views().items()}
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_important_patches_stay_as_often_as_draws_without_replacement_say():
    weights, draws = np.array([0.5, 0.25, 0.125, 0.125]), 40_000
    noise = jax.random.uniform(jax.random.key(0), (draws, 4), minval=1e-30)
    mask = importance_mask(noise, jnp.broadcast_to(jnp.asarray(weights), (draws, 4)), 2, (2, 2))
    first = np.bincount(np.asarray(mask.visible[:, 0]), minlength=4) / draws
    np.testing.assert_allclose(first, weights, atol=0.01)
    second = sum(weights[i] * np.delete(weights, i).take(0) / (1 - weights[i]) for i in (1, 2, 3))
    assert np.mean(np.asarray(mask.visible[:, 1]) == 0) == pytest.approx(second, abs=0.01)
    assert (np.asarray(mask.hidden).sum(1) == 2).all()


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("mean", [0.25, 0.25, 0.25, 0.25]),
        ("out", [0, 0, 0, 1]),
        ("linear_decay", [0, 1 / 6, 2 / 6, 3 / 6]),
        ("top2", [0, 0, 0.5, 0.5]),
        ("mid1", [0, 1, 0, 0]),
    ],
)
def test_layer_weights(kind, expected):
    np.testing.assert_allclose(layer_weights(kind, 4), expected, rtol=1e-6)


def test_normalised_targets():
    features = np.random.default_rng(0).normal(2.0, 3.0, (2, 5, 8)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(feature_target("l2", jnp.asarray(features)), axis=-1), 1.0, rtol=1e-5)
    whole = (features - features.mean()) / np.sqrt(features.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(feature_target("batch", jnp.asarray(features)), whole, rtol=1e-4, atol=1e-5)
    white = np.asarray(feature_target("whiten", jnp.asarray(features)))
    np.testing.assert_allclose(white.mean(-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(white.var(-1), 1.0, rtol=1e-3)


@pytest.mark.parametrize(
    "model, settings, sentence",
    [
        ({}, {"layer_weights": "top3"}, "method.layer_weights 'top3' names a layer"),
        ({}, {"layer_weights": "best"}, "method.layer_weights 'best' is not one of"),
        ({"depth": 1}, {"layer_weights": "mean"}, "method.fusion 'linear' needs a teacher as deep"),
        ({}, {"layer_weights": "mean", "head": "deep"}, "method.head 'deep' is not one of"),
        ({"patch_size": 8}, {}, "give both the same grid"),
    ],
)
def test_bad_settings(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        MaskAlign.tiny_of((16, 16), 3, model, **settings)
