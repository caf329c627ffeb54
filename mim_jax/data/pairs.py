"""Images with a map beside each, such as a label or a depth per pixel: where they are and how a map is read.

    folder:DIR/images?map=DIR/annotations[&list=FILE]     files of the same name below both folders
    parquet:GLOB?image=image&map=annotation               two columns of encoded files

`list` names the records that count, one name without extension per line (PASCAL VOC's `ImageSets`). A map is an image
of one channel (PNG of mode L, P or I;16: a palette's numbers are the labels) or a .npy array (H, W).
"""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, Shaped

from mim_jax.data import npyfile
from mim_jax.data.decode import decode, open_image, pixels
from mim_jax.data.sources import Record, Source, Spec, parse
from mim_jax.errors import DataError, nearest

NO_LABEL = -1  # in label maps: counts for nothing. In depth maps 0 does.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")


@dataclasses.dataclass(frozen=True)
class Labels:
    """Classes 0 .. classes - 1, int32, `NO_LABEL` where nothing counts.

    ignore: the number that counts for nothing. offset: subtracted from all others; what falls below 0 counts for
    nothing (ADE20K: 1, because its 0 is 'other').
    """

    classes: int
    ignore: int = 255
    offset: int = 0
    padding: int = NO_LABEL

    def __call__(self, values: np.ndarray) -> Int32[np.ndarray, "H W"]:
        """Raises DataError at values that are no label."""
        if values.dtype.kind not in "biu":
            raise DataError(
                f"holds {values.dtype} numbers, not the whole numbers of a label map; save it as uint8 or uint16"
            )
        labels = values.astype(np.int64) - self.offset
        labels[(values == self.ignore) | (labels < 0)] = NO_LABEL
        if labels.size and labels.max() >= self.classes:
            bad = int(labels.max()) + self.offset
            raise DataError(
                f"has the label {bad}, beyond {self.classes} classes"
                f"{f' from {self.offset} on' if self.offset else ''}; set classes, offset or ignore"
            )
        return labels.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Depths:
    """Metres, float32; 0 where there is no measurement.

    unit: metres per unit of whole numbers (0.001: millimetres); floats are metres already. low, high: depths outside
    of (low, high] count for nothing.
    """

    unit: float = 0.001
    low: float = 0.001
    high: float = 10.0
    padding: float = 0.0

    def __call__(self, values: np.ndarray) -> Float32[np.ndarray, "H W"]:
        metres = values.astype(np.float32) * (1.0 if values.dtype.kind == "f" else self.unit)
        good = np.isfinite(metres) & (metres > self.low) & (metres <= self.high)
        return np.where(good, metres, 0).astype(np.float32)


MapRule = Labels | Depths  # `padding` is the value that counts for nothing


class Pair(NamedTuple):
    """An image and its map, of the same size."""

    image: Shaped[np.ndarray, "H W C"]
    map: Shaped[np.ndarray, "H W"]
    name: str


class Pairs:
    """Random access to pairs, safe to use from many threads.

    rows: for every pair the numbers of its records in `images` and `maps`.
    """

    def __init__(self, spec: str, images: Source, maps: Source, rows: list[tuple[int, int]]):
        self.spec, self.images, self.maps, self.rows = spec, images, maps, rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int, rule: MapRule, channels: int = 3, max_pixels: int = 100_000_000) -> Pair:
        """Pair i with uint8 pixels.

        Raises:
            DataError: a file that cannot be read, a map of another size than its image, a label out of range.
        """
        a, b = self.rows[i]
        image_record, name = _record(self.spec, self.images, a, "image")
        map_record, map_name = _record(self.spec, self.maps, b, "map")
        with _naming(self.spec, "image", name):
            image = pixels(
                decode(image_record["image"], channels=channels, dtype=np.dtype(np.uint8), max_pixels=max_pixels)
            )
        with _naming(self.spec, "map", map_name):
            values = rule(read_map(map_record["image"], max_pixels))
            if values.shape != image.shape[:2]:
                raise DataError(
                    f"is {values.shape[1]} x {values.shape[0]}, but its image '{name}' is "
                    f"{image.shape[1]} x {image.shape[0]}; make them equal"
                )
        return Pair(image, values, name)


def read_map(data: bytes | np.ndarray, max_pixels: int = 100_000_000) -> Shaped[np.ndarray, "H W"]:
    """The numbers of a map file as they are stored. Raises DataError where it is not a map of one channel."""
    if isinstance(data, bytes) and not data.startswith(npyfile.MAGIC):
        try:
            with open_image(data, max_pixels) as image:
                image.load()
                mode, array = image.mode, np.asarray(image)
        except DataError:
            raise
        except Exception as error:  # Pillow's plugins raise many kinds at damaged files; all mean the same here
            raise DataError(f"is not an image that can be read: {error}; mend or remove it") from error
        if mode not in _MODES:
            raise DataError(f"is a colour image ({mode}); a map has one number per pixel (mode L, P or I;16)")
        return array
    array = npyfile.load(data) if isinstance(data, bytes) else data
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2:
        raise DataError(f"has shape {array.shape}, not (height, width); save it so")
    return array


def open_pairs(spec: str) -> Pairs:
    """Opens pairs. Raises DataError: unknown scheme or option, nothing there, an image or a map without its partner."""
    parsed = parse(spec)
    if parsed.scheme not in ("folder", "parquet"):
        raise DataError(f"data source '{spec}': pairs come from folder: or parquet:, not from {parsed.scheme}:")
    parsed.check_options(("map", "list") if parsed.scheme == "folder" else ("map", "image", "cache"))
    if not parsed.options.get("map"):
        example = "folder:DIR/images?map=DIR/annotations" if parsed.scheme == "folder" else f"{spec}?map=annotation"
        raise DataError(f"data source '{spec}' names no maps; write for example '{example}'")
    return _open_folders(parsed) if parsed.scheme == "folder" else _open_parquet(parsed)


def split_pairs(source: str, eval_source: str, split: str) -> tuple[Pairs, Int64[np.ndarray, " N"]]:
    """The pairs of 'train' or 'eval' and the numbers that count; without `eval_source` a fixed tenth is held out."""
    from mim_jax.data.split import hold_out

    pairs = open_pairs(eval_source if split == "eval" and eval_source else source)
    everything = np.arange(len(pairs), dtype=np.int64)
    if eval_source:
        return pairs, everything
    return pairs, hold_out(len(pairs), split, source, "eval_source of the evaluation")


def _open_folders(spec: Spec) -> Pairs:
    from mim_jax.data.sources.folder import Folder

    images = Folder(spec.target, Spec(spec.text, "folder", spec.target, {}))
    maps = Folder(spec.options["map"], Spec(spec.text, "folder", spec.options["map"], {}))
    of_images, of_maps = by_stem(images, spec.text), by_stem(maps, spec.text)
    if "list" in spec.options:
        stems, mend = _listed(spec), "; add it, or take the name out of the list"
        for stem in stems:
            for there, what, root in ((of_images, "image", images.root), (of_maps, "map", maps.root)):
                if stem not in there:
                    raise DataError(
                        f"data source '{spec.text}': '{spec.options['list']}' names '{stem}', "
                        f"but there is no such {what} in '{root}'{_close(stem, there) or mend}"
                    )
    else:
        stems = sorted(of_images)
        _all_paired(spec.text, images, of_images, of_maps, "image", f"no map of that name in '{maps.root}'")
        _all_paired(spec.text, maps, of_maps, of_images, "map", f"no image of that name in '{images.root}'")
    return Pairs(spec.text, images, maps, [(of_images[stem], of_maps[stem]) for stem in stems])


def _open_parquet(spec: Spec) -> Pairs:
    from mim_jax.data.sources.files import expand
    from mim_jax.data.sources.parquet import Parquet

    paths = expand(spec.target, "parquet", spec.text)
    rest = {key: value for key, value in spec.options.items() if key == "cache"}
    image = {"image": spec.options["image"]} if "image" in spec.options else {}
    images = Parquet(paths, Spec(spec.text, "parquet", spec.target, rest | image))
    maps = Parquet(paths, Spec(spec.text, "parquet", spec.target, rest | {"image": spec.options["map"]}))
    if images.image == maps.image:
        raise DataError(f"data source '{spec.text}': images and maps are one column, '{maps.image}'; set ?image=")
    return Pairs(spec.text, images, maps, [(i, i) for i in range(len(images))])


def by_stem(source: Source, spec: str) -> dict[str, int]:
    """{name without extension: record}. Raises DataError: two records of one name."""
    found: dict[str, int] = {}
    for i in range(len(source)):
        stem = os.path.splitext(source.name(i))[0]
        if stem in found:
            raise DataError(
                f"data source '{spec}': '{source.name(found[stem])}' and '{source.name(i)}' have the same name; "
                "remove one of them"
            )
        found[stem] = i
    return found


def _listed(spec: Spec) -> list[str]:
    path = os.path.expanduser(spec.options["list"])
    try:
        with open(path, encoding="utf-8") as file:
            stems = [line.split()[0] for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "it is not text"
        raise DataError(
            f"data source '{spec.text}': the list '{path}' cannot be read: {reason}; give a text file of names"
        ) from error
    if not stems:
        raise DataError(f"data source '{spec.text}': the list '{path}' is empty; write a name on each line")
    return stems


def _all_paired(
    spec: str, source: Source, own: dict[str, int], others: dict[str, int], what: str, lacking: str
) -> None:
    alone = [stem for stem in own if stem not in others]
    if alone:
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise DataError(
            f"data source '{spec}': the {what} '{source.name(own[alone[0]])}'{more} has {lacking}; "
            "add it, or name the records that count by &list=FILE"
        )


def _close(stem: str, names: dict[str, int]) -> str:
    close = nearest(stem, names)
    return close if "did you mean" in close else ""


def _record(spec: str, source: Source, i: int, what: str) -> tuple[Record, str]:
    name = source.name(i)
    with _naming(spec, what, name):
        return source[i], name


class _naming:  # noqa: N801 - used like a function
    """Puts the name of the file before the sentence of a DataError."""

    def __init__(self, spec: str, what: str, name: str):
        self.start = f"data source '{spec}': the {what} '{name}'"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, DataError):
            raise DataError(f"{self.start} {error}") from error
