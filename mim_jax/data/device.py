"""Views that the step makes on the device (`data.crop_on = device`): the host sends whole images and what was drawn.

A batch then holds `stored` (B, H, W, C), the images as they are, and for every view NAME an array `NAME_crop` of
int32, (B, 5) or (B, count, 5): top, left, height and width of the box, and whether it is flipped.
`mim_jax.training.device_crops` makes the views of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from mim_jax.data.decode import Picture
from mim_jax.data.views import View
from mim_jax.errors import ConfigError
from mim_jax.section import Section

STORED, SUFFIX = "stored", "_crop"
_CROPS = ("random_resized", "random_resized_clipped")
_FILTERS = ("bicubic", "bilinear", "lanczos")
_ON_HOST = ("color_jitter", "color_jitter_hue", "grayscale", "blur", "solarize", "erase", "randaugment")


def refuse_host_only(where: str, view: Section) -> None:
    """Raises ConfigError where a view asks for what the device does not do, naming the key."""
    for key, choices in (("crop", _CROPS), ("interpolation", _FILTERS)):
        if view[key] not in choices:
            raise ConfigError(
                f"{where}.{key} = {view[key]!r} is not done on the device, only {' and '.join(choices)} are; set "
                "data.crop_on = 'host'"
            )
    for key in (*_ON_HOST, "color_jitter_saturation"):
        off = view[key] <= 0 if key == "color_jitter_saturation" else not view[key]
        if not off:
            raise ConfigError(
                f"{where}.{key} = {view[key]!r} is not done on the device; set it to "
                f"{'empty' if key == 'randaugment' else 0}, or data.crop_on = 'host'"
            )


def drawn(
    views: Sequence[View], picture: Picture, *, seed: int, epoch: int, index: int
) -> list[Int32[np.ndarray, "..."]]:
    """What was drawn for every view of record `index` in `epoch`, by the draws that `views.look` would use."""
    rows = []
    for view in views:
        crops = []
        for crop in range(view.count):
            choice = view.choose(picture, view.draws(seed, epoch, index, crop))
            assert choice.box is not None  # `refuse_host_only`
            crops.append((*choice.box, int(choice.flip)))
        rows.append(np.array(crops if view.count > 1 else crops[0], np.int32))
    return rows
