"""A vision transformer with two linear layers and tanh on its patches: encoder and decoder of BEiT v2's tokenizer."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.init import NORMAL


class TaskVit(nn.Module):
    """Patches after the final norm, and what the two layers make of them; the class token ends here.

    dtype: of the two layers, float32 in the original's encoder whatever the rest is computed in.
    """

    config: VitConfig
    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w O"]]:
        """(features, outputs), float32."""
        tokens, _ = Vit(self.config, name="vit")(images)
        patches = tokens[:, 1:].reshape(len(images), *self.config.grid, -1).astype(jnp.float32)
        hidden = nn.tanh(nn.Dense(self.config.width, dtype=self.dtype, kernel_init=NORMAL, name="task1")(patches))
        outputs = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=NORMAL, name="task2")(hidden)
        return patches, outputs.astype(jnp.float32)


def task_vit_flops(config: VitConfig, outputs: int) -> float:
    """Forward FLOPs for one image."""
    tokens, width = config.tokens, config.width
    return vit_flops(config) + flops.dense(tokens, width, width) + flops.dense(tokens, width, outputs)
