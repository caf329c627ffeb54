"""I-JEPA and StoP: sizes, padding that changes nothing, the moving average, noise on positions, configs."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax.errors import ConfigError
from mim_jax.masking.multi_block import Blocks
from mim_jax.methods import registry
from mim_jax.methods.base import Progress
from mim_jax.methods.ijepa import IJepa
from mim_jax.models.vit_config import variant
from mim_jax.pretrain import check_all
from mim_jax.training.groups import flat

MODEL = dict(image_size=24, patch_size=4, width=16, depth=1, heads=2)
METHOD = dict(
    target_scale=(0.15, 0.35), min_keep=3, target_blocks=2, predictor_width=8, predictor_depth=1, predictor_heads=2
)
COUNTS = {  # encoder, predictor: the card
    "B/16": (85_646_592, 11_238_912, 6, 12),
    "L/16": (303_098_880, 22_082_560, 12, 16),
    "H/14": (630_434_560, 22_279_424, 12, 16),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    *expected, depth, heads = COUNTS[name]
    method = IJepa.from_config(variant(name, cls_token=False), dict(predictor_depth=depth, predictor_heads=heads))
    batch = {"image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)}
    v = jax.eval_shape(method.init, jax.random.key(0), batch)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert [size(v.params["encoder"]), size(v.params["predictor"])] == expected
    assert jax.tree.map(jnp.shape, v.extra["target_encoder"]) == jax.tree.map(jnp.shape, v.params["encoder"])


@lru_cache
def case(batch=4, **settings):
    """A method with variables, of which the target encoder is not the encoder, images and draws."""
    method = IJepa.from_config(MODEL, METHOD | settings)
    images = {"image": jax.random.normal(jax.random.key(0), (batch, 24, 24, 3))}
    v = jax.jit(method.init)(jax.random.key(1), images)
    noisy = lambda tree, seed: jax.tree.map(  # noqa: E731
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(seed + x.size), x.shape), tree
    )
    v = v.replace(params=noisy(v.params, 0), extra=noisy(v.extra, 1))
    return method, v, images, jax.jit(method.draw)(v.params, v.extra, {}, images, jax.random.key(6), Progress.last())


def differentiate(method, v, batch, draws):
    grad = jax.value_and_grad(lambda p: method.forward(p, v.extra, {}, batch, draws, Progress.last()), has_aux=True)
    (loss, output), grads = jax.jit(grad)(v.params)
    return loss, output.trace, grads


def without_padding(blocks):
    """The same blocks as the original would hold them: just as long as this batch needs."""
    length, size = (int(valid[0, 0].sum()) for valid in (blocks.context_valid, blocks.target_valid))
    assert length < blocks.context.shape[-1] and size < blocks.target.shape[-1]
    ends = (length, length, size, size)
    parts = (blocks.context, blocks.context_valid, blocks.target, blocks.target_valid)
    return Blocks(*(part[..., :end] for part, end in zip(parts, ends, strict=True)))


def test_padding_changes_nothing():
    method, v, batch, draws = case(context_blocks=2, stochastic_positions=0.3)
    loss, trace, grads = differentiate(method, v, batch, draws)
    exact = without_padding(draws["blocks"])
    length, size = exact.context.shape[-1], exact.target.shape[-1]
    noise = draws["noise"][..., :size, :]
    plain, expected, plain_grads = differentiate(method, v, batch, {**draws, "blocks": exact, "noise": noise})
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    latent = trace["latent"].reshape(4, method.context_blocks, -1, 16)
    np.testing.assert_allclose(latent[:, :, :length], expected["latent"].reshape(4, -1, length, 16), atol=1e-5)
    assert not latent[:, :, length:].any()
    np.testing.assert_allclose(trace["pred"][..., :size, :], expected["pred"], atol=1e-5)
    for name, grad in flat(grads).items():
        np.testing.assert_allclose(grad, flat(plain_grads)[name], rtol=1e-4, atol=1e-6, err_msg=name)
        assert grad.any(), name


def test_what_fills_up_and_what_the_model_is_not_asked_for_is_not_scored():
    method, v, batch, draws = case()
    loss, trace, _ = differentiate(method, v, batch, draws)
    blocks = trace["blocks"]
    error = np.abs(np.asarray(trace["pred"]) - np.asarray(trace["target"]))
    huber = np.where(error < 1, error**2 / 2, error - 0.5)[:, :, 0][np.asarray(blocks.target_valid)]
    np.testing.assert_allclose(loss, huber.mean(), rtol=1e-5)
    teacher = np.asarray(trace["teacher"])
    standard = (teacher - teacher.mean(-1, keepdims=True)) / np.sqrt(teacher.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(trace["target"][1, 1, 0], standard[1][np.asarray(blocks.target[1, 1])], atol=1e-4)


def test_the_target_encoder_follows_with_a_rising_momentum():
    method, v, _, _ = case()
    for step, momentum in ((0, 0.996), (50, 0.998), (99, 0.99996)):
        new = method.update(v.extra, v.params, None, Progress.at(step, 100, 10))
        for name, leaf in flat(new["target_encoder"]).items():
            old, student = flat(v.extra["target_encoder"])[name], flat(v.params["encoder"])[name]
            np.testing.assert_allclose(leaf, momentum * old + (1 - momentum) * student, rtol=1e-5, atol=1e-7)


def test_which_encoder_is_judged():
    method, v, batch, _ = case()
    other = dataclasses.replace(method, evaluate="context")
    target, context = (jax.jit(m.encode)(v.params, batch["image"], extra=v.extra).pooled for m in (method, other))
    alone = jax.jit(method.encode)(v.params, batch["image"]).pooled
    np.testing.assert_array_equal(alone, context)
    assert not np.allclose(target, context)


@pytest.mark.parametrize("form, deviation", [("code", 0.25), ("paper", 0.5)])
def test_deviation_of_the_noise(form, deviation):
    _, _, _, draws = case(stochastic_positions=0.25, stochastic_form=form)
    assert float(draws["noise"].std()) == pytest.approx(deviation, rel=0.05)
    assert draws["noise"].shape == (4, 2, 1, draws["blocks"].target.shape[-1], 16)


@pytest.mark.parametrize(
    "model, method, words",
    [
        (dict(cls_token=True), {}, "model.cls_token must be False"),
        (dict(relative_bias="shared"), {}, "model.relative_bias must be 'none'"),
        ({}, dict(predictor_heads=3), "predictor_heads 3 does not divide method.predictor_width 8"),
        ({}, dict(predictor_width=6), "predictor_width 6 must be a multiple of 4"),
        ({}, dict(momentum=0.9, momentum_end=0.5), "method.momentum 0.9 must be .* at most 0.5"),
        ({}, dict(stochastic_positions=-0.1), "stochastic_positions -0.1 must be at least 0"),
        ({}, dict(stochastic_form="cod"), "stochastic_form 'cod' is not one of code, paper"),
        ({}, dict(evaluate="teacher"), "evaluate 'teacher' is not one of target, context"),
        ({}, dict(min_keep=10), "try method.min_keep 3"),
        (dict(image_size=4), {}, "at least 2 x 2 patches"),
    ],
)
def test_impossible_settings_are_refused(model, method, words):
    with pytest.raises(ConfigError, match=words):
        IJepa.from_config(MODEL | model, METHOD | method)


def test_every_published_row_builds(root):
    rows = json.loads((root / "results" / "ijepa.json").read_text())["published"]
    specs = {row["config"] for row in rows}
    for spec in specs:
        config = configs.load(str(root / spec))
        assert check_all(config) == registry.build(config)
    assert len(specs) == 7
    for row in rows:
        assert {"paper", "table", "model", "data", "metric", "value", "source", "certainty"} <= set(row)


def test_small_config_builds(root):
    for argument in ("", ":sigma=0.25"):
        check_all(configs.load(str(root / "configs" / "ijepa" / "cifar10.py") + argument))
