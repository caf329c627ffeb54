"""The perceptron of a transformer block: two layers, or three with a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.init import Init, scaled

ACTIVATIONS: dict[str, Callable] = {
    "gelu": partial(jax.nn.gelu, approximate=False),  # exact (erf)
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP's
}
MLPS = ("mlp", "swiglu")


class Mlp(nn.Module):
    """Linear, activation, linear. fc2_scale: multiplies the second matrix at the start."""

    hidden: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    fc2_scale: float = 1.0
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        hidden = ACTIVATIONS[self.activation](dense(self.hidden, kernel_init=self.start.kernel, name="fc1")(x))
        return dense(x.shape[-1], kernel_init=scaled(self.start.kernel, self.fc2_scale), name="fc2")(hidden)


def swiglu_width(hidden: int) -> int:
    """Width of the gated layer that takes the place of `hidden` units: two thirds, which costs as many parameters,
    rounded up to a multiple of 8 (DINOv2's code)."""
    return -(-int(hidden * 2 / 3) // 8) * 8


class SwiGlu(nn.Module):
    """Linear to twice the width, SiLU of the first half times the second, linear (Shazeer 2020; DINOv2's giant).

    hidden: of the perceptron whose place it takes; see `swiglu_width`. The halves of `fc1` are gate and value.
    """

    hidden: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    fc2_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        width = 2 * swiglu_width(self.hidden)
        gate, value = jnp.split(dense(width, kernel_init=self.start.kernel, name="fc1")(x), 2, axis=-1)
        out = dense(x.shape[-1], kernel_init=scaled(self.start.kernel, self.fc2_scale), name="fc2")
        return out(jax.nn.silu(gate) * value)
