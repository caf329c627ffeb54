"""Regressor and decoder of CAE against plain numpy, drop path, rematerialisation, and what has no sense."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import mask_from_hidden
from mim_jax.models.attentive import AttentivePool
from mim_jax.models.cae import ContextAutoencoder, LatentRegressor
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.block import StackConfig
from mim_jax.nn.positions import sincos_2d

STACK = StackConfig(depth=2, heads=2, qkv_bias="qv", layer_scale=0.1, init="cae")
HIDDEN = np.array([[0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0]], bool)
SIZES = ContextAutoencoder(VitConfig((8, 12), 3, (4, 4), 16, 1, 2), 12, 2, 0.1, 2, 1, 7)


@pytest.fixture
def mask():
    return mask_from_hidden(jnp.asarray(HIDDEN), 3, (2, 3))


def filled(module, *args):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), jnp.float32), shapes)


def layer_norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def attention(p, q, k, v, heads):
    q, k, v = q @ p["q"]["kernel"] + p["q_bias"], k @ p["k"]["kernel"], v @ p["v"]["kernel"] + p["v_bias"]
    split = lambda x: x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)  # noqa: E731
    q, k, v = split(q), split(k), split(v)
    logits = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    out = out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)
    return out @ p["proj"]["kernel"] + p["proj"]["bias"]


def gelu(x):
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


@pytest.mark.parametrize("feed, final", [(True, True), (False, False)])
def test_regressor_by_hand(mask, feed, final):
    visible = np.random.default_rng(1).normal(size=(2, 3, 8)).astype(np.float32)
    module = LatentRegressor(STACK, feed, final)
    params = filled(module, jnp.asarray(visible), mask)
    found = jax.jit(module.apply)({"params": params}, jnp.asarray(visible), mask)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    table = sincos_2d((2, 3), 8, prefix=0, row_first=True)
    seen = np.stack([table[~row] for row in HIDDEN])
    hidden = np.stack([table[row] for row in HIDDEN])
    x = np.broadcast_to(p["mask_token"], (2, 3, 8))
    for i in range(2):
        b = p[f"blocks_{i}"]
        context, positions = (visible, seen) if not feed else map(np.hstack, ((visible, x), (seen, hidden)))
        queries, keys = layer_norm(x + hidden, b["norm1_q"]), layer_norm(context + positions, b["norm1_k"])
        x = x + b["gamma_1"] * attention(b["attn"], queries, keys, layer_norm(context, b["norm1_v"]), 2)
        x = layer_norm(x, b["norm2"])
        inner = gelu(x @ b["mlp"]["fc1"]["kernel"] + b["mlp"]["fc1"]["bias"])
        x = x + b["gamma_2"] * (inner @ b["mlp"]["fc2"]["kernel"] + b["mlp"]["fc2"]["bias"])
    x = layer_norm(x, p["norm"]) if final else x
    assert ("norm" in p) == final
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


def test_drop_path_and_remat_of_the_regressor(mask):
    visible = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8)), jnp.float32)
    stack = dataclasses.replace(STACK, drop_path_rate=0.5)
    module = LatentRegressor(stack)
    params = filled(module, visible, mask)
    noise = jnp.asarray([[[0.9, 0.9], [0.9, 0.9]], [[0.9, 0.9], [0.1, 0.1]]])  # the second image loses the last block
    run = lambda m: jax.jit(m.apply)({"params": params}, visible, mask, noise)  # noqa: E731
    found = run(module)
    np.testing.assert_allclose(
        run(LatentRegressor(dataclasses.replace(stack, remat="full"))), found, rtol=1e-5, atol=1e-6
    )
    last = jax.tree.map(lambda x: x, params)
    last["blocks_1"]["gamma_1"] = last["blocks_1"]["gamma_2"] = jnp.zeros(8)
    without = jax.jit(module.apply)({"params": last}, visible, mask, None)
    np.testing.assert_allclose(found[1], without[1], rtol=1e-4, atol=1e-5)
    assert np.abs(found[0] - without[0]).max() > 1e-3


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(heads=5), "decoder_heads 5 does not divide method.decoder_width 12"),
        (dict(width=10), "decoder_width 10 must be a multiple of 4; try 12"),
        (dict(regressor_depth=0), "regressor_depth 0 must be at least 1"),
        (dict(encoder=VitConfig((8, 12), 3, (4, 4), 16, 1, 2, relative_bias="shared")), "relative_bias 'shared' needs"),
    ],
)
def test_impossible_sizes(change, words):
    SIZES.check()
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SIZES, **change).check()


def test_a_projection_stands_where_widths_differ():
    assert list(SIZES.modules()) == ["encoder", "projection", "regressor", "decoder"]
    assert "projection" not in dataclasses.replace(SIZES, width=16).modules()


def test_a_fresh_attentive_query_averages_values():
    """The query starts at zero, and so does its bias: every token weighs the same."""
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 8)), jnp.float32)
    module = AttentivePool(heads=2)
    params = jax.jit(module.init)(jax.random.key(0), tokens)["params"]
    assert not params["query"].any()
    values = np.asarray(tokens, np.float64)
    values = (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-6)
    expected = values.mean(1) @ params["attn"]["v"]["kernel"] @ params["attn"]["proj"]["kernel"]
    np.testing.assert_allclose(module.apply({"params": params}, tokens), expected, rtol=1e-4, atol=1e-6)
