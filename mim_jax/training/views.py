"""The image views of a batch: their shapes, and their way from stored pixels to what methods receive."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mim_jax.data.maps import settings_of
from mim_jax.methods.base import Batch, ViewShape
from mim_jax.nn.images import normalize, unit_range
from mim_jax.section import Section
from mim_jax.training.device_crops import crop_batch


@dataclasses.dataclass(frozen=True)
class Views:
    """Views by name with what they are to look like, and the statistics that normalise them."""

    shapes: tuple[tuple[str, ViewShape], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # Of the views that the step itself crops (`data.crop_on = device`), by name.
    interpolation: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_config(cls, data: Section) -> Views:
        """From the `data` section of a config."""
        shapes = tuple(
            (name, ViewShape(tuple(view["size"]), data["channels"], view["count"], view["normalize"]))
            for name, view in sorted(data["views"].items())
        )
        for name, one in settings_of(data):
            height, width, channels = one.shape(tuple(data["views"]["image"]["size"]))
            shapes += ((name, ViewShape((height, width), channels, 1, False, given=True, classes=one.classes)),)
        on_device = data["crop_on"] == "device"
        interpolation = tuple((name, data["views"][name]["interpolation"]) for name, _ in shapes) if on_device else ()
        return cls(shapes, tuple(data["mean"]), tuple(data["std"]), interpolation)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Views:
        """Inverse of `dataclasses.asdict` followed by JSON."""
        shapes = tuple((name, ViewShape(**{**shape, "size": tuple(shape["size"])})) for name, shape in values["shapes"])
        interpolation = tuple((name, how) for name, how in values.get("interpolation", ()))
        return cls(shapes, tuple(values["mean"]), tuple(values["std"]), interpolation)

    def prepare(self, batch: Batch) -> Batch:
        """Stored pixels of every view that is there normalised on the device, or in [0, 1] where its shape says so."""
        sizes = {name: shape.size for name, shape in self.shapes}
        out = dict(crop_batch(batch, {name: (sizes[name], how) for name, how in self.interpolation}))
        for name, shape in self.shapes:
            if name in out and not shape.given:
                pixels = jnp.asarray(out[name])
                out[name] = normalize(pixels, self.mean, self.std) if shape.normalize else unit_range(pixels)
        return out

    def complete(self, batch: Batch) -> Batch:
        """A batch that has the view `image` alone (evaluation, pictures) with the others resized from it; maps cannot
        be."""
        out, pixels = dict(batch), jnp.asarray(batch["image"])
        for name, shape in self.shapes:
            if name not in batch and not shape.given:
                view = jax.image.resize(unit_range(pixels), (len(pixels), *shape.size, shape.channels), "cubic")
                view = jnp.clip(view, 0.0, 1.0)
                out[name] = jnp.stack([view] * shape.count, axis=1) if shape.count > 1 else view
        return self.prepare(out)

    def example(self, batch: int = 1) -> Batch:
        """Zeros of the shapes that `prepare` returns."""
        return {name: jnp.zeros(shape.array(batch)) for name, shape in self.shapes}
