"""Attention and states of a vision transformer with every switch, against the forward pass and attention by hand."""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.models.attention_map import look_inside, patch_saliency
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.relative import relative_index

SWITCHES = [
    dict(),
    dict(qkv_bias="qv", relative_bias="shared", positions="none", layer_scale=0.1, init="beit"),
    dict(qkv_bias="none", relative_bias="per_block", cls_token=False, positions="learned"),
    dict(qkv_bias="full", layer_scale=0.1, scan=True, cls_token=False),
    dict(positions="learned", registers=2, mlp="swiglu", pre_norm=True, patch_bias=False),
]


def random_tree(shapes, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(random.normal(0, 0.4, s.shape), s.dtype), shapes)


def by_hand(config, params, number, x):
    """Attention of one block from the state before it, in numpy."""
    block = params[f"blocks_{number}"]
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_eps)
    x = x * block["norm1"]["scale"] + block["norm1"]["bias"]
    attn = block["attn"]
    qkv = x @ np.asarray(attn["qkv"]["kernel"])
    if config.qkv_bias == "full":
        qkv = qkv + attn["qkv"]["bias"]
    if config.qkv_bias == "qv":
        qkv = qkv + np.concatenate([attn["q_bias"], np.zeros(config.width), attn["v_bias"]])
    q, k, _ = einops.rearrange(qkv, "b t (three k d) -> three b k t d", three=3, k=config.heads)
    logits = np.einsum("bkqd,bktd->bkqt", q, k) / np.sqrt(q.shape[-1])
    if config.relative_bias != "none":
        table = (params if config.relative_bias == "shared" else attn)["relative_bias"]["table"]
        logits = logits + np.moveaxis(np.asarray(table)[relative_index(config.grid, config.cls_token)], -1, 0)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("switches", SWITCHES, ids=["plain", "beit", "per block", "scan", "registers"])
def test_what_is_seen_is_what_the_model_computes(switches):
    config = VitConfig((8, 12), 1, (4, 4), width=8, depth=2, heads=2, **switches)
    images = jax.random.normal(jax.random.key(1), (3, 8, 12, 1))
    params = random_tree(jax.eval_shape(Vit(config).init, jax.random.key(0), images)["params"])
    inside = look_inside(config, params, images)
    _, outputs = Vit(config).apply({"params": params}, images, layers=True)
    assert len(inside.attention) == 2 and len(inside.states) == 5
    np.testing.assert_allclose(inside.states[2], outputs[0], atol=1e-5)
    np.testing.assert_allclose(inside.states[4], outputs[1], atol=1e-5)
    for number in range(2):
        expected = by_hand(config, params, number, inside.states[2 * number])
        shares = inside.attention[number].sum(-1, keepdims=True)  # less than one where registers take theirs
        assert (shares < 1 - 1e-4).all() if config.registers else np.allclose(shares, 1.0, atol=1e-5)
        np.testing.assert_allclose(inside.attention[number] / shares, expected, atol=2e-5)
    # Without the perceptron's output matrix, the state after the attention is what the block gives.
    mlp = jax.tree.map(jnp.zeros_like, params["blocks_0"]["mlp"]["fc2"])
    bare = {**params, "blocks_0": {**params["blocks_0"], "mlp": {**params["blocks_0"]["mlp"], "fc2": mlp}}}
    silent = Vit(config).apply({"params": bare}, images, layers=True)[1][0]
    np.testing.assert_allclose(inside.states[1], silent, atol=1e-5)
    saliency = patch_saliency(config, params, images)
    assert saliency.shape == (3, 6)
    np.testing.assert_allclose(saliency.sum(1), 1.0, rtol=1e-5)


def test_parameters_do_not_know_that_they_are_looked_at():
    config = VitConfig((8, 8), 1, (4, 4), width=8, depth=1, heads=2)
    variables = jax.eval_shape(Vit(config).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert set(variables) == {"params"}
