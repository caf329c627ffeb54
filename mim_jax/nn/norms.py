"""Layer normalisation as the field's vision transformers use it (Ba et al. 2016), and the L2 norm."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.init import Initializer


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Divided by its length, which counts as 1e-12 where it is less; the gradient at 0 is finite."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def layer_norm(
    name: str | None,
    dtype: Dtype = jnp.float32,
    epsilon: float = 1e-6,
    bias_init: Initializer = nn.initializers.zeros,
    scale_init: Initializer = nn.initializers.ones,
) -> LayerNorm:
    """LayerNorm with epsilon 1e-6; two-pass statistics in float32 (one-pass variance loses digits)."""
    return LayerNorm(epsilon, dtype, bias_init, scale_init, name=name)


class LayerNorm(nn.Module):
    """flax's LayerNorm to the last bit in what it returns; its backward pass keeps the input and two numbers a token,
    where the derivative of every operation by itself keeps several float32 arrays of the input's size."""

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        scale = self.param("scale", self.scale_init, (x.shape[-1],))
        bias = self.param("bias", self.bias_init, (x.shape[-1],))
        return _normed(x, scale, bias, self.epsilon).astype(self.dtype)


def standardized(x: Float[Array, "*B D"], epsilon: float = 1e-6) -> Float[Array, "*B D"]:
    """A layer norm without parameters, float32, through which gradients flow."""
    return _normed(x, jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1]), epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normed(x, scale, bias, epsilon):
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + epsilon)
    return (wide - mean) * (rstd * scale) + bias, (x, mean, rstd, scale)


def _backward(epsilon, kept, gradient):
    x, mean, rstd, scale = kept
    gradient = gradient.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * rstd
    batch = tuple(range(x.ndim - 1))
    inner = gradient * scale
    shift = inner.mean(axis=-1, keepdims=True) + normed * (inner * normed).mean(axis=-1, keepdims=True)
    return (rstd * (inner - shift)).astype(x.dtype), (gradient * normed).sum(axis=batch), gradient.sum(axis=batch)


_normed.defvjp(_forward, _backward)
