"""What happens inside a vision transformer: where its tokens look, and its residual stream between the branches."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from flax import struct
from jaxtyping import Array, Float

from mim_jax.models.vit import Vit, without_registers
from mim_jax.models.vit_config import VitConfig


class Inside(struct.PyTreeNode):
    """What `look_inside` saw; class token first where there is one. Registers are left out.

    attention: of each block after the softmax, biases included, (B, K, T, T) with queries as rows, float32; the rows
        of an encoder with registers sum to what these do not get.
    states: the residual stream: what the first block is given, then after the attention and after the perceptron of
        each block (layer scales included, before the final norm), (B, T, D) each.
    """

    attention: tuple[Any, ...]
    states: tuple[Any, ...]


def look_inside(config: VitConfig, params: Any, images: Float[Array, "B H W C"]) -> Inside:
    """Attention and states of every block for whole images, whatever the switches of the model.

    params: of the encoder. What is not used costs nothing inside a compiled function.
    """
    _, outputs, seen = _run_looking(config, params, images, final_norm=False)
    blocks = [seen[f"blocks_{i}"] for i in range(config.depth)]
    shown = partial(without_registers, config)
    between = [
        state for block, out in zip(blocks, outputs, strict=True) for state in (shown(block["after_attention"][0]), out)
    ]
    weights = [_shown_weights(config, block) for block in blocks]
    return Inside(tuple(weights), (shown(seen["embedding"][0]), *between))


def tokens_and_attention(
    config: VitConfig, params: Any, images: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B T D"], Float[Array, "B N"]]:
    """What the encoder returns, and the class token's attention to the patches in its last block, mean over heads,
    from one pass."""
    tokens, _, seen = _run_looking(config, params, images, final_norm=True)
    weights = _shown_weights(config, seen[f"blocks_{config.depth - 1}"])
    return tokens, patch_attention(weights)


def patch_attention(weights: Float[Array, "B K T T"]) -> Float[Array, "B N"]:
    """The rows of the class token, without itself, mean over heads."""
    return weights.mean(axis=1)[:, 0, 1:]


def _run_looking(config: VitConfig, params: Any, images: Any, final_norm: bool) -> tuple[Any, tuple[Any, ...], Any]:
    """Tokens, the outputs of the blocks, and what was kept on the way."""
    # Values can be read off only where blocks run one by one, as modules.
    plain = dataclasses.replace(config, scan=False, remat="none", drop_path_rate=0.0)
    encoder = Vit(plain, final_norm=final_norm)
    (tokens, outputs), seen = encoder.apply({"params": params}, images, layers=True, mutable=["intermediates"])
    return tokens, outputs, seen["intermediates"]


def _shown_weights(config: VitConfig, block: Any) -> Float[Array, "B K T T"]:
    """The attention of a block without the rows and columns of registers."""
    weights = without_registers(config, block["attn"]["weights"][0], axis=-1)
    return without_registers(config, weights, axis=-2)


def image_grid(config: VitConfig, images: Float[Array, "B H W C"]) -> tuple[int, int]:
    """Rows and columns of the patches of these images."""
    return images.shape[1] // config.patch_size[0], images.shape[2] // config.patch_size[1]


def cls_attention(config: VitConfig, params: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
    """Attention of the class token to the patches in the last block, mean over heads (DINO, figure 1)."""
    weights = look_inside(config, params, images).attention[-1]
    return patch_attention(weights).reshape(-1, *image_grid(config, images))


def patch_saliency(config: VitConfig, params: Any, images: Float[Array, "B H W C"]) -> Float[Array, "B N"]:
    """How much attention each patch gets in the last block, mean over heads, summing to one: the class token's, or
    where there is none the mean over the patches'."""
    weights = look_inside(config, params, images).attention[-1].mean(axis=1)
    received = weights[:, 0, 1:] if config.cls_token else weights.mean(axis=1)
    return received / received.sum(axis=-1, keepdims=True)
