"""I-JEPA's predictor, and sequences that are filled up to a static length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.masking.multi_block import Blocks
from mim_jax.models.predictor import Predictor
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.block import StackConfig
from mim_jax.nn.positions import sincos_2d


@pytest.mark.parametrize("form", ["none", "code", "paper"])
def test_positions_of_target_tokens(form):
    """With no blocks the predictor's output shows its input: norm and linear map are undone by hand."""
    predictor = Predictor(8, StackConfig(0, 2, init="ijepa"), 5, (3, 4), form)
    target = jnp.array([[[2, 7, 11]]])
    blocks = Blocks(jnp.zeros((1, 1, 1), int), jnp.ones((1, 1, 1), bool), target, jnp.ones((1, 1, 3), bool))
    noise = None if form == "none" else jax.random.normal(jax.random.key(0), (1, 1, 1, 3, 5))
    latent = jnp.zeros((1, 1, 1, 5))
    params = predictor.init(jax.random.key(1), latent, blocks)["params"]
    params = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(x.size), x.shape), params)
    rows = predictor.apply({"params": params}, latent, blocks, noise)

    token = sincos_2d((3, 4), 8, 0)[target[0, 0]]
    if form != "none":
        token = token + noise[0, 0, 0] @ params["embed"]["kernel"]
    token = token + (params["embed"]["bias"] if form == "code" else params["mask_token"][0])
    assert ("mask_token" in params) == (form != "code")
    normal = (token - token.mean(-1, keepdims=True)) / jnp.sqrt(token.var(-1, keepdims=True) + 1e-6)
    normal = normal * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(
        rows[0], normal @ params["head"]["kernel"] + params["head"]["bias"], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("cls_token, scan", [(True, False), (False, True)])
def test_tokens_that_fill_up_are_seen_by_none(cls_token, scan):
    vit = Vit(VitConfig((8, 12), 3, (4, 4), 16, 2, 2, cls_token=cls_token, scan=scan))
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    params = vit.init(jax.random.key(1), images)
    short = jnp.array([[4, 1, 2], [0, 3, 5]])
    filled = jnp.concatenate([short, jnp.array([[0, 5], [1, 1]])], axis=1)
    valid = jnp.arange(5)[None] < jnp.array([[3], [3]])
    expected, _ = vit.apply(params, images, short)
    found, _ = vit.apply(params, images, filled, valid=valid)
    np.testing.assert_allclose(found[:, : 3 + cls_token], expected, atol=1e-5)
    assert not np.allclose(vit.apply(params, images, filled)[0][:, :3], expected[:, :3], atol=1e-3)
