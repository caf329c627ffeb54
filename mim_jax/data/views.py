"""A view: one way to look at an image, from whole pixels to a crop of fixed size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped
from numpy.random import Generator

from mim_jax.data import crops
from mim_jax.data.decode import Picture, height_width
from mim_jax.data.jitter import jitter
from mim_jax.data.randomness import generator
from mim_jax.data.resize import resize
from mim_jax.section import Section


@dataclasses.dataclass(frozen=True)
class View:
    """The settings of one view (`data.views.NAME`) and `data.eval_resize`, which 'center' uses."""

    name: str
    size: tuple[int, int]
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.5
    color_jitter: float = 0.0
    shorter_side: int = 256

    @classmethod
    def from_config(cls, name: str, view: Section, shorter_side: int) -> View:
        """From one section of `data.views`, with the types that Python's own numbers have."""
        return cls(
            name=name,
            size=(int(view["size"][0]), int(view["size"][1])),
            crop=view["crop"],
            scale=(float(view["scale"][0]), float(view["scale"][1])),
            ratio=(float(view["ratio"][0]), float(view["ratio"][1])),
            interpolation=view["interpolation"],
            flip=float(view["flip"]),
            color_jitter=float(view["color_jitter"]),
            shorter_side=int(shorter_side),
        )

    def at_evaluation(self) -> View:
        """The evaluation transform with this view's size and interpolation: nothing random in it."""
        return dataclasses.replace(self, name="eval", crop="center", flip=0.0, color_jitter=0.0)

    def draws(self, seed: int, epoch: int, index: int) -> Generator:
        """The random numbers of this view of record `index` in `epoch`."""
        return generator(seed, epoch=epoch, index=index, purpose=f"view {self.name}")

    def __call__(self, picture: Picture, rng: Generator) -> Shaped[np.ndarray, "h w C"]:
        """Crops, flips and jitters; every draw comes from `rng`, which should be from `draws`."""
        image = CROPS[self.crop](self, picture, rng)
        if self.flip and rng.random() < self.flip:
            image = image[:, ::-1]
        if self.color_jitter:
            image = jitter(np.ascontiguousarray(image), self.color_jitter, rng)
        return image


def _random_resized(view: View, picture: Picture, rng: Generator) -> np.ndarray:
    box = crops.random_resized_box(rng, *height_width(picture), view.scale, view.ratio)
    return resize(picture, view.size, view.interpolation, box)


def _random_resized_clipped(view: View, picture: Picture, rng: Generator) -> np.ndarray:
    box = crops.clipped_box(rng, *height_width(picture), view.scale, view.ratio)
    return resize(picture, view.size, view.interpolation, box)


def _random(view: View, picture: Picture, rng: Generator) -> np.ndarray:
    """The image at the smallest size that covers the view, an eighth of zeros around it, and a random part of that."""
    height, width = view.size
    image = resize(picture, crops.covering_size(*height_width(picture), view.size), view.interpolation)
    image = np.pad(image, ((height // 8,) * 2, (width // 8,) * 2, (0, 0)))
    top = int(rng.random() * (image.shape[0] - height + 1))
    left = int(rng.random() * (image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def _center(view: View, picture: Picture, rng: Generator) -> np.ndarray:
    """Shorter side to `data.eval_resize`, then the centre."""
    del rng
    to = crops.shorter_side_size(*height_width(picture), view.shorter_side)
    return crops.center_crop(resize(picture, to, view.interpolation), view.size)


CROPS: dict[str, Callable[[View, Picture, Generator], np.ndarray]] = {
    "random_resized": _random_resized,
    "random_resized_clipped": _random_resized_clipped,
    "random": _random,
    "center": _center,
}
