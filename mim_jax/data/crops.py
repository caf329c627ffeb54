"""Which part of an image is looked at."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Shaped
from numpy.random import Generator

Box = tuple[int, int, int, int]  # top, left, height, width


def _draw_side(
    rng: Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int]:
    """(height, width) of a random area and shape: area share uniform in `scale`, width / height log-uniform."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = math.exp(low + (high - low) * rng.random())
    return round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))


def _place(rng: Generator, height: int, width: int, h: int, w: int) -> Box:
    return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w


def random_resized_box(
    rng: Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], tries: int = 10
) -> Box:
    """A random part of the image: ten tries to fit, then the centre, clipped to the range of `ratio`.

    "Going deeper with convolutions" (Szegedy et al. 2014), section 6, with the retries and the fallback that
    torchvision's RandomResizedCrop made the standard; MAE, appendix A.1.
    """
    for _ in range(tries):
        h, w = _draw_side(rng, height, width, scale, ratio)
        if 0 < h <= height and 0 < w <= width:
            return _place(rng, height, width, h, w)
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def clipped_box(rng: Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """The same without retries: sides that are too long are clipped to the image (MAE's linear probe)."""
    h, w = _draw_side(rng, height, width, scale, ratio)
    return _place(rng, height, width, min(max(h, 1), height), min(max(w, 1), width))


def shorter_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) after the shorter side becomes `side`; the longer one is truncated, as torchvision does."""
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def covering_size(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) of the image's shape that covers `size`."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * factor)), max(size[1], round(width * factor))


def center_crop(image: Shaped[np.ndarray, "H W C"], size: tuple[int, int]) -> Shaped[np.ndarray, "h w C"]:
    """The centre at `size` = (height, width); an image that is too small is first padded with zeros on both sides."""
    height, width = image.shape[:2]
    if height < size[0] or width < size[1]:
        over, beside = max(0, size[0] - height), max(0, size[1] - width)
        image = np.pad(image, (_halves(over), _halves(beside), (0, 0)))
        height, width = image.shape[:2]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image[top : top + size[0], left : left + size[1]]


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2
