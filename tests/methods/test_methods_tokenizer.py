"""Training of tokenizers: errors fall, codes are used, schedules move, impossible settings are refused."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax import config as configs
from mim_jax import recipes
from mim_jax.errors import ConfigError
from mim_jax.methods.base import Progress
from mim_jax.methods.registry import build as build_method
from mim_jax.methods.tokenizer import Tokenizer
from mim_jax.models.tokenizer import detokenize, tokenize
from mim_jax.training.groups import flat
from mim_jax.training.optimizer import build
from mim_jax.training.state import init_state
from mim_jax.training.step import StepSettings, train_step
from mim_jax.training.views import Views


def pictures(key, batch=32, size=16):
    """Smooth colour blobs with a hard edge: easier than photographs, harder than noise."""
    keys = jax.random.split(key, 3)
    coarse = jax.random.uniform(keys[0], (batch, 4, 4, 3))
    smooth = jax.image.resize(coarse, (batch, size, size, 3), "cubic")
    edge = jnp.arange(size)[None, :, None, None] < jax.random.randint(keys[1], (batch, 1, 1, 1), 0, size)
    return jnp.clip(jnp.where(edge, smooth, smooth[:, ::-1] * 0.5), 0.0, 1.0)


def trained(method, steps, lr=3e-3):
    """State after some steps on fresh pictures, and the scalars of the first and the last."""
    batch = {"image": pictures(jax.random.key(0))}
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    optimizer = build({**recipes.adamw(), "weight_decay": 0.0, "clip_norm": 1.0}, method.param_groups(), params)
    state, frozen = jax.jit(partial(init_state, method, optimizer, ema=False))(jax.random.key(0), batch)
    settings = StepSettings(steps, 10, lambda step: jnp.asarray(lr), Views((), (0.0,), (1.0,)))

    @jax.jit
    def step(state, n):
        batch = {"image": pictures(jax.random.fold_in(jax.random.key(1), n))}
        key = jax.random.key(2)
        return train_step(state, frozen, batch, key, method=method, optimizer=optimizer, settings=settings)

    scalars = []
    for n in range(steps):
        state, now = step(state, n)
        scalars.append(now)
    return state, scalars[0], scalars[-1]


@pytest.mark.parametrize(
    "model, settings, least_used",
    [
        (dict(kind="vq"), dict(codebook_decay=0.9), 29),
        (dict(kind="dvae"), dict(kl_weight=0.01), 4),
        pytest.param(dict(kind="vq", distance="cosine"), dict(codebook_decay=0.9), 29, marks=pytest.mark.slow),
        pytest.param(dict(kind="dvae"), dict(hard=True, reconstruction="l1"), 4, marks=pytest.mark.slow),
    ],
)
def test_training_lowers_the_error_and_uses_the_codes(model, settings, least_used):
    small = dict(image_size=16, stride=4, hidden=16, blocks=1, vocabulary=32, code_width=8)
    method = Tokenizer.from_config(small | model, settings)
    state, first, last = trained(method, 150)
    assert float(last["mse"]) < 0.5 * float(first["mse"])
    tree = method.tokenizer(state.params, state.extra)
    images = pictures(jax.random.key(9), batch=64)
    tokens = tokenize(method.model, tree, images)
    error = jnp.square(detokenize(method.model, tree, tokens) - images).mean()
    assert float(error) < 0.75 * float(images.var())  # through the tokens alone, on pictures never seen
    assert len(np.unique(tokens)) >= least_used


def test_every_part_of_a_dvae_takes_a_gradient():
    method = Tokenizer.tiny(kind="dvae")
    batch = {"image": pictures(jax.random.key(0), batch=4)}
    v = jax.jit(method.init)(jax.random.key(0), batch)
    assert set(v.params) == {"encoder", "decoder", "codebook"} and not v.extra

    @jax.jit
    def gradients(params, progress):
        loss = partial(method.loss, extra={}, frozen={}, batch=batch, key=jax.random.key(1), progress=progress)
        return jax.grad(lambda p: loss(p)[0])(params)

    for name, gradient in flat(gradients(v.params, Progress.at(5, 10, 5))).items():
        assert bool((gradient != 0).any()), name


def test_temperature_and_weight_follow_the_run():
    method = dataclasses.replace(Tokenizer.tiny(kind="dvae"), kl_weight=2.0, kl_share=0.5, temperature_share=0.5)
    batch = {"image": pictures(jax.random.key(0), batch=4)}
    v = jax.jit(method.init)(jax.random.key(0), batch)
    draws = method.draw(v.params, {}, {}, batch, jax.random.key(1), Progress.last())
    forward = jax.jit(lambda step: method.forward(v.params, {}, {}, batch, draws, Progress.at(step, 100, 10))[1])
    start, middle, end = (forward(step) for step in (0, 25, 80))
    assert float(start.terms["kl"]) == 0.0
    logits = np.asarray(start.trace["outputs"], np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = (p * np.log(p * 16)).sum(-1).sum(-1).mean() / (16 * 16 * 3)
    np.testing.assert_allclose([middle.terms["kl"], end.terms["kl"]], [nats, 2 * nats], rtol=1e-3)
    # At temperature 1/16 the mixture of codes is nearly one of them, at 1 it is not.
    logits = (logits + np.asarray(draws["gumbel"])) / np.array([1.0, 0.0625]).reshape(2, 1, 1, 1)
    for shown, scaled in zip((start, end), logits, strict=True):
        share = np.exp(scaled - scaled.max(-1, keepdims=True))
        expected = share / share.sum(-1, keepdims=True) @ np.asarray(v.params["codebook"])
        np.testing.assert_allclose(shown.trace["vectors"], expected, rtol=1e-3, atol=1e-4)


def test_codes_move_by_the_whole_batch_also_in_micro_batches():
    method = Tokenizer.tiny()
    batch = {"image": pictures(jax.random.key(0), batch=8)}
    v = jax.jit(method.init)(jax.random.key(0), batch)
    forward = jax.jit(lambda images: method.forward(v.params, v.extra, {}, {"image": images}, {}, Progress.last())[1])
    whole, halves = forward(batch["image"]), [forward(batch["image"][half::2]) for half in (0, 1)]
    assert float(whole.weight) == 8 and float(whole.carry["counts"].sum()) == 16  # tokens per image
    mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0].carry, halves[1].carry)
    for name, value in whole.carry.items():
        np.testing.assert_allclose(value, mean[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_show_draws_what_the_tokens_keep():
    method = Tokenizer.tiny()
    batch = {"image": pictures(jax.random.key(0), batch=2)}
    v = jax.jit(method.init)(jax.random.key(0), batch)
    shown = method.show(v.params, v.extra, {}, batch, jax.random.key(0))
    assert list(shown.panels) == ["input", "reconstruction", "tokens"]
    tree = method.tokenizer(v.params, v.extra)
    expected = detokenize(method.model, tree, tokenize(method.model, tree, batch["image"]))
    np.testing.assert_array_equal(shown.panels["reconstruction"], expected)


@pytest.mark.parametrize("kind", ["vq", "dvae"])
@pytest.mark.parametrize("file", ["cifar10", "imagenet1k"])
def test_configs_build(root, file, kind):
    config = configs.load(f"{root}/configs/tokenizer/{file}.py:kind={kind}")
    method = build_method(config)
    assert method.model.kind == kind and method.model.grid == ((8, 8) if file == "cifar10" else (14, 14))
    assert tuple(config.data.mean) == (0.0,) * 3 and tuple(config.data.std) == (1.0,) * 3


@pytest.mark.parametrize(
    "model, settings, sentence",
    [
        (dict(kind="dalle"), {}, "model.kind 'dalle' and model.source are for frozen tokenizers"),
        (dict(kind="vq", source="runs/x"), {}, "model.source are for frozen tokenizers"),
        (dict(kind="vq"), dict(reconstruction="l3"), "method.reconstruction 'l3' is not one of l2, l1"),
        (dict(kind="vq"), dict(codebook_decay=1.5), "method.codebook_decay 1.5 must be between 0 and 1"),
        (dict(kind="dvae"), dict(temperature=(1.0, 0.0)), r"method.temperature \(1.0, 0.0\) must be two positive"),
        (dict(kind="vq"), dict(comitment=1.0), "method.comitment .* did you mean 'commitment'"),
    ],
)
def test_impossible_settings_are_refused(model, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Tokenizer.from_config(model, settings)
