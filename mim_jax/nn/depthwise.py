"""The depthwise convolution on a mesh with a tensor axis.

XLA's partitioner counts the gradient of a depthwise kernel once for every device that holds the same images (seen with
jaxlib 0.10.2): with two shards along the tensor axis it is twice too large.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mim_jax.nn.target import target

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l 1 C"], strides: Any, padding: Any, **settings: Any
) -> Float[Array, "B h w C"]:
    """`lax.conv_general_dilated` with a group for each channel and a stride of 1, as `nn.Conv` calls it."""
    where = target()
    if where is None or where.tensor_shards == 1:
        return lax.conv_general_dilated(x, kernel, strides, padding, **settings)
    assert tuple(strides) == (1, 1) and settings["feature_group_count"] == x.shape[-1] == kernel.shape[-1]
    return _split(x, kernel, tuple((int(low), int(high)) for low, high in padding))


def _plain(x, kernel, padding: Padding):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS, feature_group_count=x.shape[-1]
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _split(x, kernel, padding: Padding):
    return _plain(x, kernel, padding)


def _backward(padding: Padding, kept, gradient):
    x, kernel = kept
    _, back = jax.vjp(lambda x: _plain(x, kernel, padding), x)
    # The kernel's gradient tap by tap: sums of products, which are split like any others.
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(jnp.float32)
    height, width = gradient.shape[1:3]
    wide = gradient.astype(jnp.float32)
    taps = [
        [(padded[:, i : i + height, j : j + width] * wide).sum((0, 1, 2)) for j in range(kernel.shape[1])]
        for i in range(kernel.shape[0])
    ]
    found = jnp.stack([jnp.stack(row) for row in taps])[:, :, None]
    return back(gradient)[0], found.astype(kernel.dtype)


_split.defvjp(lambda x, kernel, padding: (_split(x, kernel, padding), (x, kernel)), _backward)
