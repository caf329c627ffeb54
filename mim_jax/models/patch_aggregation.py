"""BEiT v2's second head: a few blocks on the last class token and early patches, so that the class token must know."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_rates
from mim_jax.nn.norms import layer_norm


class PatchAggregation(nn.Module):
    """Blocks that see the class token after the last block and the patches after block `early`, neither normalised.

    They start, and drop paths, as blocks early, early + 1, ... of the encoder would. own_norm: a final norm of its own.
    """

    config: VitConfig
    early: int = 9
    layers: int = 2
    own_norm: bool = False

    @nn.compact
    def __call__(
        self,
        states: tuple[Float[Array, "B T D"], ...],
        bias: Float[Array, "#B #K #T T"] | None = None,
        noise: Float[Array, "B L 2"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Tokens, normalised where the norm is its own."""
        x = jnp.concatenate([states[-1][:, :1], states[self.early - 1][:, 1:]], axis=1)
        stack = dataclasses.replace(self.config.stack, init="beitv2_head")
        rates = drop_path_rates(stack.drop_path_rate, max(self.config.depth, self.early + self.layers))
        for i in range(self.layers):
            block = stack.block(self.early + i, parent=self, name=f"blocks_{i}")
            x = block(x, bias, None if noise is None else noise[:, i], float(rates[self.early + i]))
        return layer_norm("norm", stack.dtype, stack.layer_norm_eps)(x) if self.own_norm else x


def aggregation_flops(module: PatchAggregation) -> float:
    """Forward FLOPs for one image."""
    config, tokens = module.config, 1 + module.config.tokens
    scale = 2 * module.layers * tokens * config.width if config.layer_scale else 0
    return flops.stack(dataclasses.replace(config.stack, depth=module.layers), tokens, config.width) + scale
