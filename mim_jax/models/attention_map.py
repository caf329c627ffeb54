"""Where the class token of a vision transformer looks."""

from __future__ import annotations

import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig


def cls_attention(config: VitConfig, params: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
    """Attention of the class token to the patches in the last block, mean over heads; for models with one qkv bias.

    The qkv values are read off a forward pass, so the model itself has nothing to return (DINO, figure 1).
    """
    # Values can be read off only where blocks run one by one, as modules.
    encoder = Vit(dataclasses.replace(config, scan=False, remat="none", drop_path_rate=0.0))
    block = f"blocks_{config.depth - 1}"
    _, state = encoder.apply(
        {"params": params},
        images,
        capture_intermediates=lambda module, _: module.path[-2:] == ("attn", "qkv") and module.path[0] == block,
        mutable=["intermediates"],
    )
    (qkv,) = state["intermediates"][block]["attn"]["qkv"]["__call__"]
    q, k, _ = einops.rearrange(qkv.astype(jnp.float32), "b t (three k d) -> three b k t d", three=3, k=config.heads)
    logits = jnp.einsum("bkd,bktd->bkt", q[:, :, 0] * q.shape[-1] ** -0.5, k)
    attention = jax.nn.softmax(logits, axis=-1).mean(1)[:, 1:]
    grid = (images.shape[1] // config.patch_size[0], images.shape[2] // config.patch_size[1])
    return attention.reshape(-1, *grid)
