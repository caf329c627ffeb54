"""Targets from a frozen tokenizer, the same for every method that predicts ids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from mim_jax.methods.base import Tree, ViewShape
from mim_jax.models.tokenizer import TokenizerConfig, tokenize
from mim_jax.models.vit_config import VitConfig


def token_views(model: VitConfig, tokenizer: TokenizerConfig) -> dict[str, ViewShape]:
    """The encoder's view, `image`, and the tokenizer's, `tokens`, of pixels in [0, 1]."""
    tokens = ViewShape(tokenizer.image_size, tokenizer.channels, normalize=False)
    return {"image": ViewShape(model.image_size, model.channels), "tokens": tokens}


def token_ids(config: TokenizerConfig, params: Tree, view: Shaped[Array, "B ..."]) -> Int[Array, "B N"]:
    """Ids of a view (B, H, W, C) of pixels in [0, 1], without gradient; integers (B, N) are ids already and pass."""
    if jnp.issubdtype(view.dtype, jnp.integer):
        return view
    return jax.lax.stop_gradient(tokenize(config, params, view))
