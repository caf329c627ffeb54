"""Crops of a whole batch of small images at once, in NumPy: for 32 x 32 pixels, calling Pillow is most of the work.

The arithmetic is Pillow's: a separable filter, first across and then down, with weights of 22 bits behind the point
and whole levels between the passes. The sums are exact in float64, so the result is Pillow's to the bit.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from mim_jax.data.crops import random_resized_box
from mim_jax.data.randomness import generator, words
from mim_jax.data.views import View

LARGEST = 64  # of a stored side; a box's weights for every place take memory with the fourth power of it
PART = 32  # images whose numbers stay in a core's own cache
_BITS = 22
_CUBIC = -0.5  # the free coefficient of Keys' filter


def serves(view: View, height: int, width: int, dtype: np.dtype) -> bool:
    """Whether `crops` makes this view of images of one size: plain enlarged crops of 8-bit images."""
    return (
        view.crop == "random_resized"
        and view.interpolation in _FILTERS
        and view.count == 1
        and not view.same_as
        and view.policy is None
        and not any((view.jitter.strength, view.jitter.saturation, view.jitter.hue, view.erasing.probability))
        and not any((view.effects.grayscale, view.effects.blur, view.effects.solarize))
        and dtype == np.uint8
        # Only where nothing shrinks is the order of the passes the same in every Pillow.
        and max(height, width) <= LARGEST
        and height <= view.size[0]
        and width <= view.size[1]
    )


def crops(
    view: View, images: UInt8[np.ndarray, "B H W C"], indices: Int64[np.ndarray, " B"], seed: int, epoch: int
) -> UInt8[np.ndarray, "B h w C"]:
    """What `views.look` makes of every image."""
    boxes, flips = draw(view, images.shape[1], images.shape[2], indices, seed, epoch)
    result = np.empty((len(images), *view.size, images.shape[3]), np.uint8)
    for first in range(0, len(images), PART):
        part = slice(first, first + PART)
        result[part] = _cut(view, images[part], boxes[part], flips[part])
    return result


def _cut(
    view: View, images: UInt8[np.ndarray, "B H W C"], boxes: Int64[np.ndarray, "B 4"], flips: Bool[np.ndarray, " B"]
) -> UInt8[np.ndarray, "B h w C"]:
    count, height, width, channels = images.shape
    top, left, h, w = boxes.T
    across = _weights(width, view.size[1], view.interpolation)[w, left]
    down = _weights(height, view.size[0], view.interpolation)[h, top]
    across[flips] = across[flips, ::-1]
    columns = images.transpose(0, 2, 1, 3).astype(np.float64, order="C").reshape(count, width, -1)
    half = _to_levels(np.matmul(across, columns)).reshape(count, view.size[1], height, channels)
    rows = half.transpose(0, 2, 1, 3).astype(np.float64, order="C").reshape(count, height, -1)
    return _to_levels(np.matmul(down, rows)).reshape(count, *view.size, channels)


def draw(
    view: View, height: int, width: int, indices: Int64[np.ndarray, " B"], seed: int, epoch: int
) -> tuple[Int64[np.ndarray, "B 4"], Bool[np.ndarray, " B"]]:
    """Boxes (top, left, height, width) and flips, those of `View.choose` for every record."""
    count = len(indices)
    drawn = (words(seed, epoch, indices, f"view {view.name}", 3) >> np.uint64(11)) * 2.0**-53
    boxes, flips = np.zeros((count, 4), np.int64), np.zeros(count, bool)
    open_ = np.ones(count, bool)
    low, high = math.log(view.ratio[0]), math.log(view.ratio[1])
    for first in range(0, drawn.shape[1] - 4, 2):
        u = drawn[:, first : first + 5]
        area = height * width * (view.scale[0] + (view.scale[1] - view.scale[0]) * u[:, 0])
        # math.exp, as for one image: NumPy's may differ in the last bit.
        aspect = np.array([math.exp(x) for x in (low + (high - low) * u[:, 1]).tolist()])
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        good = open_ & (h > 0) & (h <= height) & (w > 0) & (w <= width)
        top, left = (u[:, 2] * (height - h + 1)).astype(np.int64), (u[:, 3] * (width - w + 1)).astype(np.int64)
        boxes[good] = np.stack([top, left, h, w], axis=1)[good]
        flips[good] = (u[:, 4] < view.flip)[good]
        open_ &= ~good
        if not open_.any():
            break
    for row in np.flatnonzero(open_).tolist():  # more tries than words were drawn for: rare, so one by one
        rng = generator(seed, epoch=epoch, index=int(indices[row]), purpose=f"view {view.name}")
        boxes[row] = random_resized_box(rng, height, width, view.scale, view.ratio)
        flips[row] = bool(view.flip) and rng.random() < view.flip
    return boxes, flips


def _to_levels(sums: Float64[np.ndarray, "B N M"]) -> UInt8[np.ndarray, "B N M"]:
    """Rounded (half up, as the fixed-point sum is) and clipped."""
    sums += 0.5
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)  # what is behind the point falls off


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * _CUBIC if x < 2 else 0.0


_FILTERS = {"bicubic": (_cubic, 2.0), "bilinear": (lambda x: max(0.0, 1.0 - abs(x)), 1.0)}


@functools.lru_cache(maxsize=8)
def _weights(side: int, to: int, interpolation: str) -> Float64[np.ndarray, "L P to side"]:
    """[length, place]: the matrix that enlarges that part of `side` pixels to `to`; whole multiples of 2**-22."""
    result = np.zeros((side + 1, side, to, side))
    for length in range(1, side + 1):
        found = _enlarge(length, to, interpolation)
        for place in range(side - length + 1):
            result[length, place, :, place : place + length] = found
    return result


def _enlarge(length: int, to: int, interpolation: str) -> Float64[np.ndarray, "to length"]:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981); what falls outside is left out."""
    kernel, support = _FILTERS[interpolation]
    result = np.zeros((to, length))
    for row in range(to):
        centre = (row + 0.5) * length / to
        low, high = max(0, int(centre - support + 0.5)), min(length, int(centre + support + 0.5))
        taps = np.array([kernel(column - centre + 0.5) for column in range(low, high)])
        taps /= taps.sum()
        result[row, low:high] = np.trunc(taps * 2**_BITS + np.copysign(0.5, taps)) / 2**_BITS
    return result
