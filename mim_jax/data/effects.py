"""What happens to a crop after the jitter: grayscale, Gaussian blur and solarisation, in this order (DINO, iBOT)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Shaped
from numpy.random import Generator
from PIL import Image, ImageFilter

from mim_jax.data.decode import pixels, to_channels

PASSES = 3  # boxes that stand for a Gaussian, as in Pillow


@dataclasses.dataclass(frozen=True)
class Effects:
    """Probabilities, and the range of the blur's standard deviation in pixels (BYOL, appendix B; DINO)."""

    grayscale: float = 0.0
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    one: bool = False  # exactly one of the three, the probabilities being their shares (DeiT III)

    def __call__(self, image: Shaped[np.ndarray, "h w C"], rng: Generator) -> Shaped[np.ndarray, "h w C"]:
        """Applies what is drawn from `rng`; an effect of probability 0 draws nothing."""
        if self.one:
            shares = np.array([self.grayscale, self.blur, self.solarize])
            chosen = min(int(np.searchsorted(np.cumsum(shares), rng.random() * shares.sum(), side="right")), 2)
            grey, blurred, solarized = (float(chosen == number) for number in range(3))
            alone = Effects(grayscale=grey, blur=blurred, blur_radius=self.blur_radius, solarize=solarized)
            return alone(image, rng)
        if self.grayscale and rng.random() < self.grayscale:
            image = grayscale(image)
        if self.blur and rng.random() < self.blur:
            low, high = self.blur_radius
            image = blur(image, low + (high - low) * rng.random())
        if self.solarize and rng.random() < self.solarize:
            image = solarize(image)
        return image


def grayscale(image: Shaped[np.ndarray, "h w C"]) -> Shaped[np.ndarray, "h w C"]:
    """Luma in all three colours; alpha, and images without three colours, stay as they are."""
    if image.shape[2] not in (3, 4):
        return image
    return np.concatenate([np.repeat(to_channels(image, 1), 3, axis=2), image[..., 3:]], axis=2)


def blur(image: Shaped[np.ndarray, "h w C"], radius: float) -> Shaped[np.ndarray, "h w C"]:
    """Gaussian blur with standard deviation `radius`, in pixels; the border pixel goes on outside of the image.

    Grey and RGB uint8 images go through Pillow, which puts three box filters for the Gaussian; all others by the same
    boxes in float32, every channel by itself.
    """
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        array = np.ascontiguousarray(image if image.shape[2] == 3 else image[..., 0])
        return pixels(Image.fromarray(array).filter(ImageFilter.GaussianBlur(radius)))
    result, weights = image.astype(np.float32), box(radius)
    for axis in (1, 0):
        for _ in range(PASSES):
            result = _filter(result, weights, axis)
    return (result if image.dtype.kind == "f" else np.round(result)).astype(image.dtype)


def solarize(image: Shaped[np.ndarray, "h w C"]) -> Shaped[np.ndarray, "h w C"]:
    """Values in the upper half of the range (uint8: from 128 on) become their negative; alpha stays."""
    if image.dtype.kind == "f":
        result = np.where(image >= 0.5, 1 - image, image)
    else:
        top = np.iinfo(image.dtype).max
        result = np.where(image > top // 2, top - image, image)
    if image.shape[2] == 4:
        result[..., 3] = image[..., 3]
    return result.astype(image.dtype, copy=False)


def box(radius: float) -> np.ndarray:
    """Weights (2 l + 3) of the box that, used `PASSES` times, has the variance of a Gaussian: equal but at both ends.

    "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering" (Gwosdek et al. 2011), section 3.
    """
    variance = radius**2 / PASSES
    half = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * half + 1) * (half * (half + 1) - 3 * variance) / (6 * (variance - (half + 1) ** 2))
    weights = np.ones(2 * half + 3, np.float32)
    weights[0] = weights[-1] = end
    return weights / weights.sum()


def _filter(image: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    half, length = len(weights) // 2, image.shape[axis]
    padding = [(0, 0)] * image.ndim
    padding[axis] = (half, half)
    padded = np.moveaxis(np.pad(image, padding, mode="edge"), axis, 0)
    total = sum(weight * padded[i : i + length] for i, weight in enumerate(weights))
    return np.moveaxis(np.asarray(total), 0, axis)
