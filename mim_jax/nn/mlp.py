"""The perceptron of a transformer block: two layers, or three with a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.init import Init, Initializer, scaled
from mim_jax.nn.norms import layer_norm


@jax.custom_vjp
def gelu(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """The exact GELU, x (1 + erf(x / sqrt 2)) / 2, computed in float32 (Hendrycks and Gimpel 2016).

    Not jax.nn.gelu: its complement of erf costs a CPU three passes instead of one, and automatic differentiation keeps
    two arrays for the backward pass where the input is enough.
    """
    return (x * _normal_cdf(x.astype(jnp.float32))).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _gelu_backward(x, gradient):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * jnp.pi) ** -0.5
    return ((gradient * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)

ACTIVATIONS: dict[str, Callable] = {
    "gelu": gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP's
}
MLPS = ("mlp", "swiglu", "swiglu_exact")


class Mlp(nn.Module):
    """Linear, activation, linear.

    fc2_scale: multiplies the second matrix at the start. fc1_start: of the first matrix where it starts otherwise.
    norm_epsilon: of a layer norm between activation and second layer (sub-LN, Wang et al. 2022); 0 for none.
    """

    hidden: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    fc2_scale: float = 1.0
    activation: str = "gelu"
    norm_epsilon: float = 0.0
    fc1_start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        kernel = self.fc1_start or self.start.kernel
        hidden = ACTIVATIONS[self.activation](dense(self.hidden, kernel_init=kernel, name="fc1")(x))
        if self.norm_epsilon:
            hidden = layer_norm("norm", self.dtype, self.norm_epsilon, self.start.norm_bias)(hidden)
        return dense(x.shape[-1], kernel_init=scaled(self.start.kernel, self.fc2_scale), name="fc2")(hidden)


def swiglu_width(hidden: int) -> int:
    """Width of the gated layer that takes the place of `hidden` units: two thirds, which costs as many parameters,
    rounded up to a multiple of 8 (DINOv2's code)."""
    return -(-int(hidden * 2 / 3) // 8) * 8


def mlp_width(hidden: int, kind: str) -> int:
    """Inputs of the last layer of a perceptron of a kind in MLPS, which is told `hidden`."""
    return swiglu_width(hidden) if kind == "swiglu" else hidden


class SwiGlu(nn.Module):
    """Linear to twice the width, SiLU of the first half times the second, linear (Shazeer 2020; DINOv2's giant).

    hidden: of the perceptron whose place it takes; see `swiglu_width`. The halves of `fc1` are gate and value.
    exact: `hidden` is the width of each half itself (EVA-02). The rest is as in `Mlp`.
    """

    hidden: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    fc2_scale: float = 1.0
    exact: bool = False
    norm_epsilon: float = 0.0
    fc1_start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        width = 2 * (self.hidden if self.exact else swiglu_width(self.hidden))
        kernel = self.fc1_start or self.start.kernel
        gate, value = jnp.split(dense(width, kernel_init=kernel, name="fc1")(x), 2, axis=-1)
        hidden = jax.nn.silu(gate) * value
        if self.norm_epsilon:
            hidden = layer_norm("norm", self.dtype, self.norm_epsilon, self.start.norm_bias)(hidden)
        return dense(x.shape[-1], kernel_init=scaled(self.start.kernel, self.fc2_scale), name="fc2")(hidden)
