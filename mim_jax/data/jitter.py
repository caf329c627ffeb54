"""Colour jitter: brightness, contrast and saturation in random order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped
from numpy.random import Generator
from PIL import Image, ImageEnhance

from mim_jax.data.decode import to_channels

_PILLOW: tuple[Callable, ...] = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def jitter(image: Shaped[np.ndarray, "H W C"], strength: float, rng: Generator) -> Shaped[np.ndarray, "H W C"]:
    """Each of the three changed by a factor uniform in 1 +- `strength`, in random order (SimCLR, appendix A).

    Grey and RGB uint8 images go through Pillow; other types and channel counts by the same arithmetic in float32, and
    saturation is left alone where there are no three colours.
    """
    order = np.argsort(rng.random(3), kind="stable")
    factors = max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * rng.random(3)
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        for i in order:
            picture = _PILLOW[i](picture).enhance(float(factors[i]))
        return np.asarray(picture).reshape(image.shape)
    result = image.astype(np.float32)
    for i in order:
        result = _clip(_blend(result, int(i), float(factors[i])), image.dtype)
    return result.astype(image.dtype)


def _blend(image: np.ndarray, which: int, factor: float) -> np.ndarray:
    """Away from black (0), from the mean grey (1), or from the grey image (2), by `factor`."""
    colours = image.shape[2] in (3, 4)
    grey = to_channels(image, 1) if colours else image.mean(axis=2, keepdims=True)
    if which == 0:
        base = np.zeros_like(image)
    elif which == 1:
        base = np.full_like(image, grey.mean())
    else:
        base = np.repeat(grey, image.shape[2], axis=2) if colours else image
    result = base + factor * (image - base)
    if image.shape[2] == 4:
        result[..., 3] = image[..., 3]  # alpha is no colour
    return result


def _clip(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return np.clip(image, 0.0, 1.0)
    return np.clip(np.round(image), 0, np.iinfo(dtype).max)
