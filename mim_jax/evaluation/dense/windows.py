"""Inference on images of any size: windows of one size, their predictions averaged and resized to the map's own size.

Shapes are rounded up, so that few programs serve images of all sizes; what lies outside never counts.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int64

from mim_jax.models.maps import upsample

Taps = tuple[Any, Any, Any]


def corners(size: tuple[int, int], crop: tuple[int, int], stride: tuple[int, int]) -> Int64[np.ndarray, "n 2"]:
    """Top left corners of windows that cover an image of `size` (each side at least the crop's), rows first.

    The last window of a row or column ends with the image, so it may overlap more (mmsegmentation's sliding window).
    """
    places = []
    for side, length, step in zip(size, crop, stride, strict=True):
        count = max(side - length + step - 1, 0) // step + 1
        places.append([max(min(i * step + length, side) - length, 0) for i in range(count)])
    return np.array([(top, left) for top in places[0] for left in places[1]], np.int64)


def taps(old: int, new: int, length: int, mirrored: bool = False) -> Taps:
    """Bilinear resize of a side: for each of `new` places two old ones and the second's share, filled up to `length`.

    Half-pixel centres, no antialias. mirrored: the new places in the opposite order.
    """
    centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(centre.astype(np.int32), max(old - 2, 0))
    high = np.minimum(low + 1, old - 1)
    found = (low, high, (centre - low).astype(np.float32))
    return tuple(np.pad(a[:: -1 if mirrored else 1], (0, length - new), mode="edge") for a in found)  # type: ignore[return-value]


def rounded(side: int, step: int) -> int:
    """`side`, rounded up to a multiple of `step`."""
    return -(-side // step) * step


@functools.partial(jax.jit, static_argnames=("crop", "canvas"))
def averaged(
    outputs: Float[Array, "n h w K"],
    places: Int[Array, "n 2"],
    used: Bool[Array, " n"],
    *,
    crop: tuple[int, int],
    canvas: tuple[int, int],
) -> Float[Array, "H W K"]:
    """Mean over the windows of what they say about each place; windows that are not `used` say nothing.

    outputs: of each window, made as large as the crop first. Places that no window covers get 0.
    """
    classes = outputs.shape[-1]

    def add(i, state):
        total, count = state
        window = upsample(outputs[i][None], crop)[0] * used[i]
        start = (places[i, 0], places[i, 1], jnp.zeros((), places.dtype))
        there = jax.lax.dynamic_slice(total, start, (*crop, classes))
        seen = jax.lax.dynamic_slice(count, start, (*crop, 1))
        total = jax.lax.dynamic_update_slice(total, there + window, start)
        return total, jax.lax.dynamic_update_slice(count, seen + used[i], start)

    empty = jnp.zeros((*canvas, classes)), jnp.zeros((*canvas, 1))
    total, count = jax.lax.fori_loop(0, len(outputs), add, empty)
    return total / jnp.maximum(count, 1)


@jax.jit
def resized(x: Float[Array, "h w K"], rows: Taps, columns: Taps) -> Float[Array, "H W K"]:
    """A map at another size, by `taps`."""
    low, high, share = rows
    x = x[low] * (1 - share)[:, None, None] + x[high] * share[:, None, None]
    low, high, share = columns
    return x[:, low] * (1 - share)[None, :, None] + x[:, high] * share[None, :, None]
