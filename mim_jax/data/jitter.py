"""Colour jitter: brightness, contrast, saturation and hue, each by a random amount, in random order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from PIL import Image, ImageEnhance

from mim_jax.data.decode import Picture, pixels, to_channels

HUE = 3
_PILLOW: tuple[Callable, ...] = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclasses.dataclass(frozen=True)
class Change:
    """One drawn jitter: `order` of the operations, and the `amounts` of brightness, contrast, saturation (factors)
    and hue (a share of the colour circle)."""

    order: tuple[int, ...]
    amounts: tuple[float, ...]

    def __call__(self, picture: Picture) -> Picture:
        """The picture, changed.

        Grey and RGB uint8 images go through Pillow; other types and channel counts by the same arithmetic in float32.
        Saturation and hue are left alone where there are no three colours.
        """
        if isinstance(picture, Image.Image):
            return self._pillow(picture)
        picture = np.ascontiguousarray(picture)
        if picture.dtype == np.uint8 and picture.shape[2] in (1, 3):
            return pixels(self._pillow(Image.fromarray(picture if picture.shape[2] == 3 else picture[..., 0])))
        result, top = picture.astype(np.float32), _top(picture.dtype)
        for i in self.order:
            changed = shift_hue(result, self.amounts[i]) if i == HUE else _blend(result, i, self.amounts[i])
            result = np.clip(changed if picture.dtype.kind == "f" else np.round(changed), 0, top)
        return result.astype(picture.dtype)

    def _pillow(self, picture: Image.Image) -> Image.Image:
        for i in self.order:
            if i != HUE:
                picture = _PILLOW[i](picture).enhance(self.amounts[i])
            elif picture.mode == "RGB":
                picture = _shift_hue_pillow(picture, self.amounts[i])
        return picture


@dataclasses.dataclass(frozen=True)
class Jitter:
    """How strong and how frequent (SimCLR, appendix A).

    strength: brightness and contrast change by factors uniform in 1 +- strength. saturation: the same for saturation.
    hue: shifts are uniform in +- hue. probability: of any change at all.
    """

    strength: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0

    def draw(self, rng: Generator) -> Change | None:
        """The change of one image; None where it stays as it is."""
        strengths = (self.strength, self.strength, self.saturation)
        if not any((*strengths, self.hue)) or (self.probability < 1 and rng.random() >= self.probability):
            return None
        count = 4 if self.hue else 3
        order = np.argsort(rng.random(count), kind="stable")
        low = np.array([*(max(0.0, 1 - s) for s in strengths), -self.hue][:count])
        high = np.array([*(1 + s for s in strengths), self.hue][:count])
        amounts = low + (high - low) * rng.random(count)
        return Change(tuple(order.tolist()), tuple(amounts.tolist()))


def _shift_hue_pillow(picture: Image.Image, shift: float) -> Image.Image:
    """By whole steps of 1/255, truncated, on a circle of 256: what torchvision does to Pillow images."""
    hue, saturation, value = picture.convert("HSV").split()
    steps = int(shift * 255)
    hue = hue.point([(i + steps) % 256 for i in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def shift_hue(image: Float[np.ndarray, "H W C"], shift: float) -> Float[np.ndarray, "H W C"]:
    """The colours turned by `shift` of the circle, with value and chroma as they were; C other than 3, 4: unchanged."""
    if image.shape[2] not in (3, 4):
        return image
    red, green, blue = np.moveaxis(image[..., :3], 2, 0)
    value = image[..., :3].max(axis=2)
    chroma = value - image[..., :3].min(axis=2)
    safe = np.where(chroma > 0, chroma, 1)
    sixths = np.where(
        value == red, (green - blue) / safe, np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    turned = (sixths + 6 * shift) % 6
    result = image.copy()
    for channel, offset in enumerate((5, 3, 1)):
        k = (offset + turned) % 6
        result[..., channel] = value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1)
    return result


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


def _top(dtype: np.dtype) -> float:
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
