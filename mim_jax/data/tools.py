"""`mim-jax data stats | show | bench`: looks at data before anything is trained on it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from mim_jax.data.decode import Picture, decode, pixels
from mim_jax.data.records import Records
from mim_jax.data.settings import Settings
from mim_jax.data.sources import Source, open_source
from mim_jax.data.split import open_split, some
from mim_jax.data.train import train_batches
from mim_jax.data.views import View, look
from mim_jax.errors import DataError
from mim_jax.replacing import replacing
from mim_jax.section import Section


def stats(spec: str, limit: int = 0, channels: int = 0) -> dict[str, Any]:
    """Mean and standard deviation per channel, of pixels in [0, 1], over whole images; printed and returned.

    limit: at most so many images, 0 for all (a fixed random choice). channels: 0 takes those of the arrays,
    and of files 1 if they are grey, else 3. Every pixel counts the same, so large images count more. Raises DataError
    at a bad record.
    """
    source = open_source(spec)
    channels = channels or _channels_of(source)
    chosen = some(np.arange(len(source), dtype=np.int64), limit)
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for i in chosen.tolist():
        image = pixels(_picture(source, i, channels=channels))
        flat = to_unit(image).reshape(-1, channels)
        total += flat.sum(axis=0)
        square += (flat**2).sum(axis=0)
        count += len(flat)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    print(f"{spec}: {len(chosen)} images, {channels} channels")
    for key, values in (("mean", mean), ("std", std)):
        print(f"  config.data.{key} = ({''.join(f'{v:.4f}, ' for v in values).strip()})")
    return {"images": len(chosen), "mean": mean.tolist(), "std": std.tolist()}


def _picture(source: Source, i: int, **settings: int) -> Picture:
    """Record i, decoded. Raises DataError that names it."""
    try:
        return decode(source[i]["image"], dtype=source.dtype, **settings)
    except DataError as error:
        raise DataError(f"record {i} '{source.name(i)}' of data source '{source.spec}' {error}") from error


def _channels_of(source: Source, sample: int = 32) -> int:
    """Channels of an array source; for files 1 if every one of a sample is grey, else 3."""
    first = source[0]["image"]
    if isinstance(first, np.ndarray):
        return first.shape[2] if first.ndim == 3 else 1
    for i in some(np.arange(len(source), dtype=np.int64), sample).tolist():
        try:
            colour = pixels(decode(source[i]["image"], channels=3, dtype=source.dtype))
        except DataError:
            continue  # `stats` says so, if it meets the record
        if (colour != colour[..., :1]).any():
            return 3
    return 1


def to_unit(image: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Pixels as float64 in [0, 1]; float images are taken to be so already."""
    return image.astype(np.float64) if image.dtype.kind == "f" else image / np.iinfo(image.dtype).max


def show(config: Section, path: str | os.PathLike[str], count: int = 8, draws: int = 7) -> str:
    """Writes a grid: one row per image, the evaluation view first, then `draws` draws of each training view.

    The images are random ones of the training split, drawn as in epochs 0, 1, ... of the run with `config.seed`.
    Returns the path. Raises ConfigError, DataError.
    """
    settings = Settings.from_config(config["data"])
    source, indices = open_split(settings, "train")
    records = Records(source, settings)
    rows = []
    for i in some(indices, count).tolist():
        picture, _ = records[i]
        chosen = [(settings.view("eval"), 0), *((view, e) for view in settings.views for e in range(draws))]
        shown = [(view, look([view], picture, seed=config["seed"], epoch=e, index=i)[0]) for view, e in chosen]
        rows.append([_displayable(crop) for view, made in shown for crop in (made if view.count > 1 else [made])])
    sheet = _grid(rows)
    path = os.fspath(path)
    with replacing(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    print(f"{path}: {len(rows)} images of '{settings.source}', the evaluation view and {draws} draws of each view")
    return path


def _displayable(image: np.ndarray) -> np.ndarray:
    """Any image as 8-bit RGB: the first three channels, or the first one as grey."""
    shown = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    return np.round(np.clip(to_unit(shown), 0, 1) * 255).astype(np.uint8)


def _grid(rows: list[list[np.ndarray]], gap: int = 2) -> UInt8[np.ndarray, "H W 3"]:
    """Images of a row stand beside each other, each in a column as wide as its widest, white between them."""
    height = max(image.shape[0] for row in rows for image in row) + gap
    widths = [max(image.shape[1] for image in column) + gap for column in zip(*rows, strict=True)]
    lefts = [gap + sum(widths[:c]) for c in range(len(widths))]
    sheet = np.full((len(rows) * height + gap, sum(widths) + gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for left, image in zip(lefts, row, strict=True):
            top = gap + r * height
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def bench(config: Section, seconds: float = 10.0) -> dict[str, float]:
    """Images per second of reading and decoding, of the views, and of the whole pipeline; printed and returned.

    `decode` and `view` (of all views; where there are several, also of each by itself) are of one thread; `pipeline`
    has the config's batch size, threads and workers, and `warm` is its second half, when small data sets are in memory
    and the worker processes long since running.
    """
    batches = train_batches(config["data"], seed=config["seed"], batch_size=config["training"]["batch_size"])
    found = _bench_single(config, seconds / 4)
    try:
        next(batches)
        halves = [_timed(lambda: len(next(batches)["index"]), seconds / 4) for _ in range(2)]
    finally:
        batches.close()
    found |= {"pipeline": sum(n for n, _ in halves) / sum(t for _, t in halves), "warm": halves[1][0] / halves[1][1]}
    for name, value in found.items():
        print(f"{name:16}{value:12.1f} images/s")
    return found


def _bench_single(config: Section, seconds: float) -> dict[str, float]:
    settings = Settings.from_config(config["data"])
    source, indices = open_split(settings, "train")
    numbers = itertools.cycle(some(indices, 256).tolist())
    pictures: list[Any] = []

    def read() -> int:
        picture = _picture(source, next(numbers), channels=settings.channels, max_pixels=settings.max_pixels)
        pictures.append(picture)
        del pictures[:-64]
        return 1

    def see(views: Sequence[View]) -> int:
        number = next(numbers)
        look(views, pictures[number % len(pictures)], seed=0, epoch=0, index=number)
        return 1

    works: list[tuple[str, Callable[[], int]]] = [("decode", read), ("view", partial(see, settings.views))]
    if len(settings.views) > 1:
        works += [(f"view {view.name}", partial(see, (view,))) for view in settings.views]
    rates = {}
    for name, work in works:
        count, taken = _timed(work, seconds)
        rates[name] = count / taken
    return rates


def _timed(work: Callable[[], int], seconds: float) -> tuple[int, float]:
    """How much `work` counted in about `seconds`, and the time it took; at least one round."""
    start, count = time.perf_counter(), 0
    while True:
        count += work()
        taken = time.perf_counter() - start
        if taken >= seconds:
            return count, taken
