"""How the parameters of a transformer start: one entry per family of original code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

Initializer = Callable[..., Array]

XAVIER = nn.initializers.xavier_uniform()
NORMAL = nn.initializers.normal(0.02)  # "truncated at +-2" in the originals: 100 standard deviations
ONE_SIGMA = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)  # cut at +-0.02: true deviation 0.0108
ONE_SIGMA_015 = nn.initializers.truncated_normal(0.015, lower=-1.0, upper=1.0)
ZEROS = nn.initializers.zeros
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # not truncated
XAVIER_NORMAL = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")  # not truncated


def fan_in_uniform(fan_in: int | None = None) -> Initializer:
    """Uniform in +-1/sqrt(fan_in), PyTorch's default for linear and convolution layers.

    fan_in: of the layer; None takes the product of all axes but the last, which is right for kernels.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        inputs = fan_in
        if inputs is None:
            inputs = 1
            for side in shape[:-1]:
                inputs *= side
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return init


def scaled(init: Initializer, factor: float) -> Initializer:
    """`init` times a constant."""
    return lambda key, shape, dtype=jnp.float32: init(key, shape, dtype) * factor


def side_by_side(init: Initializer, factors: tuple[float, ...]) -> Initializer:
    """A matrix that is several linear layers next to each other: each drawn by itself, times its factor."""

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        part = (*shape[:-1], shape[-1] // len(factors))
        keys = jax.random.split(key, len(factors))
        return jnp.concatenate([init(k, part, dtype) * factor for k, factor in zip(keys, factors, strict=True)], -1)

    return draw


@dataclasses.dataclass(frozen=True)
class Init:
    """kernel, bias: linear layers; norm_bias: layer norms; patch_*: patch embedding, None for the framework default.

    token: class token and learned positions. mask_token: where it differs from `token`.
    rescale: divides the second matrix of both branches of block l (from 1) by sqrt(2 l) (BEiT).
    sub_norm: in blocks with a norm inside the perceptron, queries, keys, values, gate and value are drawn as layers of
        their own, and values, outputs and all of the perceptron are sqrt(ln(2 depth)) times as large (EVA-02).
    separate_qkv: queries, keys and values are drawn as layers of their own, nothing else (MultiMAE).
    """

    kernel: Initializer = XAVIER
    bias: Initializer = ZEROS
    norm_bias: Initializer = ZEROS
    patch_kernel: Initializer | None = XAVIER
    patch_bias: Initializer | None = None
    token: Initializer = NORMAL
    mask_token: Initializer | None = None
    rescale: bool = False
    sub_norm: bool = False
    separate_qkv: bool = False


INITS = {
    "mae": Init(),
    "beit": Init(ONE_SIGMA, patch_kernel=ONE_SIGMA, patch_bias=ZEROS, token=ONE_SIGMA, rescale=True),
    "cae": Init(patch_kernel=ONE_SIGMA, patch_bias=ZEROS, token=ONE_SIGMA),
    "convmae": Init(patch_bias=ZEROS),
    "maskfeat": Init(NORMAL, *(nn.initializers.constant(0.02),) * 2, patch_kernel=NORMAL),
    "ibot": Init(NORMAL, patch_kernel=None, mask_token=ZEROS),
    "ijepa": Init(NORMAL, patch_kernel=NORMAL, patch_bias=ZEROS),
    "msn": Init(NORMAL, patch_kernel=HE_NORMAL, patch_bias=ZEROS),
    "vqkd": Init(NORMAL, patch_kernel=None, rescale=True),
    "beitv2_head": Init(fan_in_uniform(), rescale=True),  # its matrices start as PyTorch's do
    "multimae": Init(separate_qkv=True),
    "eva01": Init(ONE_SIGMA_015, patch_kernel=ONE_SIGMA_015, patch_bias=ZEROS, token=ONE_SIGMA_015, rescale=True),
    "eva02": Init(XAVIER_NORMAL, token=ONE_SIGMA, sub_norm=True),
}
