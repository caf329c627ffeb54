"""The fine-tuning classifier: parameter counts of the published models, pooling, starting values."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.models.classifier import Classifier
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig, variant
from mim_jax.nn.positions import sincos_2d

TINY = VitConfig(image_size=(8, 12), channels=2, patch_size=(4, 4), width=8, depth=1, heads=2)


def started(model, images):
    return jax.jit(model.init)(jax.random.key(0), images)["params"]


def filled(model, images):
    """Random parameters; much faster than `started`, which compiles the initialisation."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def applied(model, params, images, **kwargs):
    return jax.jit(model.apply)({"params": params}, images, **kwargs)


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 12, 2)), jnp.float32)


def test_pooling_of_all_tokens(images):
    """MultiMAE's: the class token counts as one of the tokens."""
    model = Classifier(TINY, classes=5, pooling="all")
    params = filled(model, images)
    assert set(params) == {"encoder", "fc_norm", "head"} and "norm" not in params["encoder"]
    found = applied(model, params, images)
    mean = np.asarray(found.tokens, np.float64).mean(1)
    expected = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(
        found.features, expected * params["fc_norm"]["scale"] + params["fc_norm"]["bias"], atol=1e-4
    )
    parted = applied(Classifier(TINY, classes=5), params, images)
    assert not np.allclose(found.logits, parted.logits)


@pytest.mark.parametrize("name, count", [("B/16", 86_567_656), ("L/16", 304_326_632), ("H/14", 632_045_800)])
def test_parameter_counts_are_the_published_ones(name, count):
    model = Classifier(VitConfig(**variant(name)), classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_mean_pooling_leaves_out_the_class_token_and_the_encoders_norm(images):
    model = Classifier(TINY, classes=5)
    params = filled(model, images)
    assert set(params) == {"encoder", "fc_norm", "head"}
    assert "norm" not in params["encoder"]
    config = dataclasses.replace(TINY, positions="learned")
    tokens, _ = applied(Vit(config, final_norm=False), params["encoder"], images)
    mean = np.asarray(tokens, np.float64)[:, 1:].mean(1)
    expected = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    expected = expected * params["fc_norm"]["scale"] + params["fc_norm"]["bias"]
    logits, features, *_ = applied(model, params, images)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    np.testing.assert_allclose(logits, expected @ params["head"]["kernel"] + params["head"]["bias"], atol=1e-4)


def test_cls_pooling_takes_the_class_token_after_the_encoders_norm(images):
    model = Classifier(TINY, classes=5, pooling="cls")
    params = filled(model, images)
    assert set(params) == {"encoder", "head"}
    tokens, _ = applied(Vit(dataclasses.replace(TINY, positions="learned")), params["encoder"], images)
    np.testing.assert_allclose(applied(model, params, images).features, tokens[:, 0], atol=1e-5)


def test_positions_start_at_sincos_and_the_head_near_zero():
    model = Classifier(dataclasses.replace(TINY, width=64), classes=200)
    params = started(model, jnp.zeros((1, 8, 12, 2)))
    np.testing.assert_array_equal(params["encoder"]["pos_embed"][0], sincos_2d((2, 3), 64))
    assert np.std(params["head"]["kernel"]) == pytest.approx(2e-5, rel=0.05)
    assert not np.any(params["head"]["bias"])


def test_without_classes_there_is_no_head(images):
    model = Classifier(TINY, classes=0)
    params = filled(model, images)
    assert set(params) == {"encoder", "fc_norm"}
    logits, features, *_ = applied(model, params, images)
    np.testing.assert_array_equal(logits, features)


def test_drop_path_takes_its_noise_from_outside(images):
    """Rates are 0 in the first block and 0.5 in the last: noise below that leaves the first block alone."""
    model = Classifier(dataclasses.replace(TINY, drop_path_rate=0.5, depth=2), classes=5)
    params = filled(model, images)
    dropped = applied(model, params, images, noise=jnp.full((3, 2, 2), 0.4)).features
    encoder = {name: leaf for name, leaf in params["encoder"].items() if name != "blocks_1"}
    shallow = applied(Classifier(TINY, classes=5), {**params, "encoder": encoder}, images).features
    np.testing.assert_allclose(dropped, shallow, atol=1e-5)


def test_unknown_pooling_is_refused(images):
    with pytest.raises(ConfigError, match="pooling 'max' is not one of mean, cls"):
        filled(Classifier(TINY, classes=5, pooling="max"), images)
