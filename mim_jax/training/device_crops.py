"""Random resized crops and flips on the device (`data.crop_on = device`), from boxes that the host has drawn.

Two small matrix products an image, with the weights of Pillow's antialiased filters and its rounding to whole levels
between the passes; float32 against Pillow's fixed point, so a value differs by two levels of 255 at most where Pillow
takes the horizontal pass first (`docs/data.md`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from mim_jax.data.device import STORED, SUFFIX
from mim_jax.methods.base import Batch


def crop_batch(batch: Batch, views: dict[str, tuple[tuple[int, int], str]]) -> Batch:
    """The batch with its views made of `stored`; as it is where it has none.

    views: name -> size (height, width) and interpolation.
    """
    if STORED not in batch:
        return batch
    out = {key: value for key, value in batch.items() if key != STORED and not key.endswith(SUFFIX)}
    for name, (size, interpolation) in views.items():
        crops = jnp.asarray(batch[name + SUFFIX])
        several = crops if crops.ndim == 3 else crops[:, None]
        one = jax.vmap(lambda image, crop, s=size, i=interpolation: crop_resize(image, crop, s, i), (None, 0))
        made = jax.vmap(one)(jnp.asarray(batch[STORED]), several)
        out[name] = made if crops.ndim == 3 else made[:, 0]
    return out


def crop_resize(
    image: Num[Array, "H W C"], crop: Int[Array, "5"], size: tuple[int, int], interpolation: str
) -> Num[Array, "h w C"]:
    """What `crop` = (top, left, height, width, flipped) cuts out of an image, at `size`, of the image's type."""
    top, left, height, width, flip = crop
    down = _weights(image.shape[0], top, height, size[0], interpolation)
    across = _weights(image.shape[1], left, width, size[1], interpolation)
    across = jnp.where(flip > 0, across[::-1], across)
    exact = jax.lax.Precision.HIGHEST  # bfloat16 passes would cost three bits of a pixel
    half = _to_type(jnp.einsum("xw,hwc->hxc", across, image.astype(jnp.float32), precision=exact), image.dtype)
    full = jnp.einsum("yh,hxc->yxc", down, half.astype(jnp.float32), precision=exact)
    return _to_type(full, image.dtype)


def _to_type(values: Float[Array, "..."], dtype: jnp.dtype) -> Num[Array, "..."]:
    if not jnp.issubdtype(dtype, jnp.integer):
        return values.astype(dtype)
    return jnp.clip(jnp.floor(values + 0.5), 0, jnp.iinfo(dtype).max).astype(dtype)


def _weights(
    side: int, place: Int[Array, ""], length: Int[Array, ""], to: int, interpolation: str
) -> Float[Array, "to side"]:
    """The matrix that takes pixels place..place+length-1 of `side` to `to` pixels; it sees nothing beside them."""
    kernel, support = _FILTERS[interpolation]
    step = length / to
    widening = jnp.maximum(step, 1.0)  # antialiasing
    centre = (jnp.arange(to) + 0.5)[:, None] * step
    column = (jnp.arange(side) - place)[None, :]
    low = jnp.floor(centre - support * widening + 0.5)
    high = jnp.floor(centre + support * widening + 0.5)
    inside = (column >= jnp.maximum(low, 0)) & (column < jnp.minimum(high, length))
    weights = jnp.where(inside, kernel((column - centre + 0.5) / widening), 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(jnp.float32)


def _cubic(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981), with a = -1/2."""
    x = jnp.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _linear(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _lanczos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(jnp.abs(x) < 3, jnp.sinc(x) * jnp.sinc(x / 3), 0.0)


_FILTERS = {"bicubic": (_cubic, 2.0), "bilinear": (_linear, 1.0), "lanczos": (_lanczos, 3.0)}
