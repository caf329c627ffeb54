"""Maps beside the images of a training set, such as depth or labels that another network has predicted (`data.maps`).

A map belongs to the record of its name, whatever the file's extension, and has its image's size. It is cut by the crop
and the flip of the view `image`; where that is resized, by the nearest value, since labels cannot be mixed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Shaped

from mim_jax.data.effects import Effects
from mim_jax.data.erasing import Erasing
from mim_jax.data.jitter import Jitter
from mim_jax.data.pairs import Labels, by_stem, read_map
from mim_jax.data.sources import Source, open_source
from mim_jax.data.views import View, look
from mim_jax.errors import DataError
from mim_jax.section import Section


@dataclasses.dataclass(frozen=True)
class MapSettings:
    """One section of `data.maps`.

    source, eval_source: data sources of the maps of `data.source` and `data.eval_source`. stride: one value in so many,
    each way, is kept of the crop: the middle one. classes: of labels; 0 for values.
    """

    source: str = ""
    eval_source: str = ""
    stride: int = 1
    classes: int = 0

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Of the map in a crop of `size` pixels."""
        return size[0] // self.stride, size[1] // self.stride, 1


class Maps:
    """The maps of the records of `images`; safe to use from many threads and to pickle.

    Raises:
        DataError: a source that cannot be opened, or a record without its map.
    """

    def __init__(
        self, wanted: Sequence[tuple[str, MapSettings]], images: Source, view: View, max_pixels: int, held_out: bool
    ):
        self._view, self._max_pixels = view, max_pixels
        self._wanted, self._opened = dict(wanted), {}
        for name, one in wanted:
            if not one.source:
                raise DataError(
                    f"data.maps.{name}.source is empty; name the data source of the maps, such as folder:DIR"
                )
            source = open_source((held_out and one.eval_source) or one.source)
            self._opened[name] = source, paired(images, source, f"data.maps.{name}")

    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Of the maps of one image: (h, w, 1), float32."""
        return {name: one.shape(self._view.size) for name, one in self._wanted.items()}

    def of(
        self, i: int, size: tuple[int, int], *, seed: int, epoch: int, index: int
    ) -> dict[str, Float32[np.ndarray, "h w 1"]]:
        """The maps of record i, whose image has `size` = (height, width), with the draws of record `index`.

        Raises:
            DataError: a map that cannot be read, of another size, or with a label beyond its classes.
        """
        found = {}
        for name, one in self._wanted.items():
            source, rows = self._opened[name]
            row = int(rows[i])
            try:
                values = read_map(source[row]["image"], self._max_pixels)
                values = Labels(one.classes, ignore=-1)(values) if one.classes else in_unit_range(values)
                if values.shape != size:
                    have, image = (f"{width} x {height}" for height, width in (values.shape, size))
                    raise DataError(f"is {have}, but its image is {image}; make them equal")
            except DataError as error:
                raise DataError(f"the map '{source.name(row)}' of data.maps.{name} {error}") from error
            view = map_view(name, self._view)
            (crop,) = look((view,), values[..., None], seed=seed, epoch=epoch, index=index)
            found[name] = crop[one.stride // 2 :: one.stride, one.stride // 2 :: one.stride].astype(np.float32)
        return found


def map_view(name: str, view: View) -> View:
    """A view with the crop and the flip of `view`, and nothing else of it."""
    view = dataclasses.replace(view, jitter=Jitter(), effects=Effects(), policy=None, erasing=Erasing(), fast=False)
    return dataclasses.replace(view, name=name, same_as=view.same_as or view.name, interpolation="nearest")


def in_unit_range(values: Shaped[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Whole numbers over the number of values that their type has (files of 16 bits: 65,536); floats as they are."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    bits = {"b": 0, "u": 8 * values.dtype.itemsize}.get(values.dtype.kind, 16)  # Pillow's signed ones hold 16 bits
    return (values / 2.0**bits).astype(np.float32)


def paired(images: Source, maps: Source, where: str) -> np.ndarray:
    """For every record of `images` the number of its map. Raises DataError: the first that has none, or two."""
    known = by_stem(maps, str(maps.spec))
    rows = np.array([known.get(_stem(images, i), -1) for i in range(len(images))], np.int64)
    alone = np.flatnonzero(rows < 0)
    if len(alone):
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise DataError(
            f"{where}: '{maps.spec}' has no map '{_stem(images, int(alone[0]))}' for the record of that name in "
            f"'{images.spec}'{more}; add it, with the same name but for the extension"
        )
    return rows


def _stem(source: Source, i: int) -> str:
    return os.path.splitext(source.name(i))[0]


def settings_of(data: Section) -> tuple[tuple[str, MapSettings], ...]:
    """The sections of `data.maps` by name; runs of older versions have none."""
    return tuple(sorted((name, MapSettings(**dict(section))) for name, section in (data.get("maps") or {}).items()))
