"""Antialiased resizing with vector instructions (`data.decode = fast`): Pillow's filters in 16-bit fixed point.

One level of 255 from Pillow's result for each of the two passes, where both take the horizontal one first.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8

# Pillow's bicubic filter is the one of Catmull and Rom.
FILTERS = {"bicubic": "catmull_rom", "bilinear": "bilinear", "lanczos": "lanczos3"}
_own = threading.local()


def serves(image: np.ndarray, interpolation: str) -> bool:
    """Whether `resize` takes such an image."""
    return image.dtype == np.uint8 and image.shape[2] in (1, 3) and interpolation in FILTERS


def resize(image: UInt8[np.ndarray, "H W C"], size: tuple[int, int], interpolation: str) -> UInt8[np.ndarray, "h w C"]:
    """`image` at `size` = (height, width), C 1 or 3, rounded to whole levels between the passes as Pillow does."""
    from cykooz_resizer import ImageData, PixelType

    (height, width, channels), options = image.shape, _options(interpolation)
    kind = PixelType.U8x3 if channels == 3 else PixelType.U8
    resizer = _resizer()
    source: Any = ImageData(width, height, kind, image.tobytes())
    # Each pass by itself: the library's own order depends on the sizes, and where bicubic overshoots it shows.
    for to in ((size[1], height), (size[1], size[0])):
        if to != (source.width, source.height):
            target = ImageData(*to, kind)
            resizer.resize(source, target, options)
            source = target
    return np.frombuffer(source.get_buffer(), np.uint8).reshape(*size, channels)


def _resizer() -> Any:
    from cykooz_resizer import Resizer

    if not hasattr(_own, "resizer"):  # it holds buffers, so each thread has one
        _own.resizer = Resizer()
    return _own.resizer


@functools.cache
def _options(interpolation: str) -> Any:
    from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions

    return ResizeOptions(ResizeAlg.convolution(FilterType[FILTERS[interpolation]]), use_alpha=False)
