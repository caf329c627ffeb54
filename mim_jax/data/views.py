"""A view: one way to look at an image, from whole pixels to one crop, or several, of fixed size.

What is random is first drawn (`View.choose`) and then done (`View.render`), so that views of different sizes can be
made from one choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from numpy.random import Generator

from mim_jax.data import crops
from mim_jax.data.crops import Box
from mim_jax.data.decode import Picture, height_width, pixels
from mim_jax.data.effects import Effects
from mim_jax.data.erasing import Erasing
from mim_jax.data.jitter import Change, Jitter
from mim_jax.data.jpeg import Pending
from mim_jax.data.randaugment import RandAugment, parse
from mim_jax.data.randaugment import look as look_of
from mim_jax.data.randomness import generator
from mim_jax.data.resize import flip, resize
from mim_jax.section import Section

# What a view takes from the view that `same_as` names.
SHARED = (
    "crop",
    "scale",
    "ratio",
    "flip",
    "color_jitter",
    "color_jitter_saturation",
    "color_jitter_hue",
    "color_jitter_probability",
    "jitter_first",
)


class Choice(NamedTuple):
    """What is drawn before any pixel is looked at; views that share a crop share this."""

    box: Box | None  # None: the crop draws nothing
    flip: bool
    change: Change | None


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
    jitter: Jitter = Jitter()
    jitter_first: bool = False
    effects: Effects = Effects()
    policy: RandAugment | None = None
    erasing: Erasing = Erasing()
    mean: tuple[float, ...] = ()
    count: int = 1
    same_as: str = ""
    shorter_side: int = 256
    fast: bool = False  # resize by `data.simd`; never at evaluation

    @classmethod
    def from_config(
        cls,
        name: str,
        views: Section,
        shorter_side: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        fast: bool = False,
    ) -> View:
        """From one section of `data.views`, with the types that Python's own numbers have.

        mean, std: `data.mean` and `data.std`, which RandAugment and erasing fill with. fast: `data.decode` is so.
        """
        own = views[name]
        from_other = views[own["same_as"]] if own["same_as"] else own
        shared = {key: from_other[key] for key in SHARED}
        strength, saturation = float(shared["color_jitter"]), float(shared["color_jitter_saturation"])
        return cls(
            name=name,
            size=(int(own["size"][0]), int(own["size"][1])),
            crop=shared["crop"],
            scale=(float(shared["scale"][0]), float(shared["scale"][1])),
            ratio=(float(shared["ratio"][0]), float(shared["ratio"][1])),
            interpolation=own["interpolation"],
            flip=float(shared["flip"]),
            jitter=Jitter(
                strength=strength,
                saturation=strength if saturation < 0 else saturation,
                hue=float(shared["color_jitter_hue"]),
                probability=float(shared["color_jitter_probability"]),
            ),
            jitter_first=bool(shared["jitter_first"]),
            effects=Effects(
                grayscale=float(own["grayscale"]),
                blur=float(own["blur"]),
                blur_radius=(float(own["blur_radius"][0]), float(own["blur_radius"][1])),
                solarize=float(own["solarize"]),
                one=bool(own["one_effect"]),
            ),
            policy=parse(own["randaugment"]),
            erasing=Erasing(
                float(own["erase"]),
                own["erase_mode"],
                int(own["erase_count"]),
                tuple(float(value) for value in mean),
                tuple(float(value) for value in std),
            ),
            mean=tuple(float(value) for value in mean),
            count=int(own["count"]),
            same_as=own["same_as"],
            shorter_side=int(shorter_side),
            fast=fast,
        )

    def at_evaluation(self) -> View:
        """The evaluation transform with this view's size and interpolation: nothing random in it."""
        return View(
            name="eval",
            size=self.size,
            crop="center",
            interpolation=self.interpolation,
            flip=0.0,
            shorter_side=self.shorter_side,
        )

    def shape(self, channels: int) -> tuple[int, ...]:
        """Of what the view makes of one image: (h, w, C), or (count, h, w, C) where count > 1."""
        return (*((self.count,) if self.count > 1 else ()), *self.size, channels)

    def draws(self, seed: int, epoch: int, index: int, crop: int = 0) -> Generator:
        """The random numbers of a crop of record `index` in `epoch`; those of another view where they are shared."""
        return generator(seed, epoch=epoch, index=index, purpose=f"view {self.same_as or self.name}", part=crop)

    def own_draws(self, seed: int, epoch: int, index: int, crop: int = 0) -> Generator:
        """The random numbers of what is not shared."""
        return generator(seed, epoch=epoch, index=index, purpose=f"view {self.name}", part=crop)

    def choose(self, picture: Picture | Pending, rng: Generator) -> Choice:
        """Draws crop, flip and jitter from `rng`, which should be from `draws`."""
        box = CROPS[self.crop].choose(self, *height_width(picture), rng)
        flip = bool(self.flip) and bool(rng.random() < self.flip)
        return Choice(box, flip, self.jitter.draw(rng))

    def bottom(self, picture: Pending, choice: Choice) -> int:
        """How many rows from the top `render` looks at."""
        if choice.box is None or not CROPS[self.crop].any_size or self.jitter_first:
            return picture.height
        return choice.box[0] + choice.box[2]

    def render(self, picture: Picture, choice: Choice, rng: Generator) -> Shaped[np.ndarray, "h w C"]:
        """Crop, flip, RandAugment, jitter, effects, erasing; with `jitter_first`, `picture` is jittered already."""
        image = CROPS[self.crop].cut(self, picture, choice.box)
        if choice.flip:
            image = flip(image)
        if self.policy is not None:
            image = self.policy(image, rng, look_of(self.interpolation, self.mean))
        if choice.change and not self.jitter_first:
            image = np.asarray(choice.change(image))
        return self.erasing(self.effects(image, rng), rng)

    def __call__(self, picture: Picture, rng: Generator) -> Shaped[np.ndarray, "h w C"]:
        """One crop by itself; every draw comes from `rng`."""
        choice = self.choose(picture, rng)
        return self.render(_jittered_first(self, picture, choice), choice, rng)


def look(
    views: Sequence[View], picture: Picture | Pending, *, seed: int, epoch: int, index: int
) -> list[Shaped[np.ndarray, "..."]]:
    """What every view makes of record `index` in `epoch`, of shape `View.shape`.

    A choice that several views share is drawn, and a whole picture jittered, only once.
    """
    chosen: dict[tuple[str, int], tuple[Choice, Generator]] = {}
    jittered: dict[tuple[str, int], Picture] = {}
    bottom = 1
    for view, crop in [(each, crop) for each in views for crop in range(each.count)]:
        key = (view.same_as or view.name, crop)
        if key not in chosen:
            rng = view.draws(seed, epoch, index, crop)
            chosen[key] = view.choose(picture, rng), rng
        if isinstance(picture, Pending):
            bottom = max(bottom, view.bottom(picture, chosen[key][0]))
    if isinstance(picture, Pending):  # only now is it known how much of it is looked at
        picture = picture.decode(bottom, scratch=all(view.fast for view in views))

    def one(view: View, crop: int) -> np.ndarray:
        key = (view.same_as or view.name, crop)
        choice, rng = chosen[key]
        if key not in jittered:
            jittered[key] = _jittered_first(view, picture, choice)
        return view.render(jittered[key], choice, view.own_draws(seed, epoch, index, crop) if view.same_as else rng)

    return [
        np.stack([one(view, crop) for crop in range(view.count)]) if view.count > 1 else one(view, 0) for view in views
    ]


def _jittered_first(view: View, picture: Picture, choice: Choice) -> Picture:
    return choice.change(picture) if choice.change and view.jitter_first else picture


class Crop(NamedTuple):
    """A kind of crop: how its box is drawn for an image of (height, width), and how the box is cut out."""

    choose: Callable[[View, int, int, Generator], Box | None]
    cut: Callable[[View, Picture, Box | None], np.ndarray]
    any_size: bool  # one box can be cut out at several sizes


def _random_resized(view: View, height: int, width: int, rng: Generator) -> Box:
    return crops.random_resized_box(rng, height, width, view.scale, view.ratio)


def _random_resized_clipped(view: View, height: int, width: int, rng: Generator) -> Box:
    return crops.clipped_box(rng, height, width, view.scale, view.ratio)


def _cut_resized(view: View, picture: Picture, box: Box | None) -> np.ndarray:
    return resize(picture, view.size, view.interpolation, box, fast=view.fast)


def _eighth(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 8, size[1] // 8


def _four(size: tuple[int, int]) -> tuple[int, int]:
    return 4, 4


def _padded(padding: Callable[[tuple[int, int]], tuple[int, int]], **how: Any) -> Crop:
    """A part of the image at the smallest size that covers the view, with so many pixels more on every side."""

    def choose(view: View, height: int, width: int, rng: Generator) -> Box:
        to, pad = crops.covering_size(height, width, view.size), padding(view.size)
        rows, columns = (to[i] + 2 * pad[i] - view.size[i] for i in (0, 1))
        return int(rng.random() * (rows + 1)), int(rng.random() * (columns + 1)), *view.size

    def cut(view: View, picture: Picture, box: Box | None) -> np.ndarray:
        assert box is not None
        (top, left, height, width), (over, beside) = box, padding(view.size)
        to = crops.covering_size(*height_width(picture), view.size)
        image = resize(picture, to, view.interpolation, fast=view.fast)
        image = np.pad(image, ((over, over), (beside, beside), (0, 0)), **how)
        return image[top : top + height, left : left + width]

    return Crop(choose, cut, any_size=False)


def _large_enough(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The image's own size, or where it does not cover the view, the smallest one that does."""
    covers = height >= size[0] and width >= size[1]
    return (height, width) if covers else crops.covering_size(height, width, size)


def _half(lower: bool) -> Crop:
    """A part of the upper or lower half of an image, which is one of two views of a scene (source `scenes:`)."""

    def choose(view: View, height: int, width: int, rng: Generator) -> Box:
        to = _large_enough(height // 2, width, view.size)
        rows, columns = (to[i] - view.size[i] + 1 for i in (0, 1))
        return int(rng.random() * rows), int(rng.random() * columns), *view.size

    def cut(view: View, picture: Picture, box: Box | None) -> np.ndarray:
        assert box is not None
        whole, (top, left, height, width) = pixels(picture), box
        rows = len(whole) // 2
        half = whole[rows : 2 * rows] if lower else whole[:rows]
        to = _large_enough(half.shape[0], half.shape[1], view.size)
        half = half if half.shape[:2] == to else resize(half, to, view.interpolation, fast=view.fast)
        return half[top : top + height, left : left + width]

    return Crop(choose, cut, any_size=False)


def _center(view: View, height: int, width: int, rng: Generator) -> None:
    del view, height, width, rng


def _cut_center(view: View, picture: Picture, box: Box | None) -> np.ndarray:
    """Shorter side to `data.eval_resize`, then the centre."""
    del box
    to = crops.shorter_side_size(*height_width(picture), view.shorter_side)
    return crops.center_crop(resize(picture, to, view.interpolation, fast=view.fast), view.size)


def _cut_whole(view: View, picture: Picture, box: Box | None) -> np.ndarray:
    """The whole image, its aspect ratio not kept."""
    del box
    return resize(picture, view.size, view.interpolation, fast=view.fast)


CROPS = {
    "random_resized": Crop(_random_resized, _cut_resized, any_size=True),
    "random_resized_clipped": Crop(_random_resized_clipped, _cut_resized, any_size=True),
    "random": _padded(_eighth),
    "random_reflect": _padded(_four, mode="reflect"),
    "random_upper": _half(lower=False),
    "random_lower": _half(lower=True),
    "center": Crop(_center, _cut_center, any_size=False),
    "whole": Crop(_center, _cut_whole, any_size=True),
}
