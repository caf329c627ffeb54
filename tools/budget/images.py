"""All images of a source as one array, decoded once and kept beside the runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mim_jax.data.decode import decode, pixels
from mim_jax.data.sources import open_source

MAX_PIXELS = 1 << 16


def kept(spec: str, path: Path) -> np.ndarray:
    """The images (N, H, W, 3) uint8 of a source, from `path` (.npy, with its labels beside it) where they are there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        images, labels = decoded(spec)
        _save(path.with_name(f"{path.stem}_labels.npy"), labels)
        _save(path, images)  # last: where it stands, the labels do too
    return np.load(path, mmap_mode="r")


def decoded(spec: str) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a source whose images are all of one size."""
    source = open_source(spec)
    found = [
        pixels(decode(source[i]["image"], channels=3, dtype=np.dtype(np.uint8), max_pixels=MAX_PIXELS))
        for i in range(len(source))
    ]
    sizes = {image.shape for image in found}
    if len(sizes) != 1:
        raise SystemExit(f"{spec} holds images of {len(sizes)} sizes; all must have one to lie in one array")
    return np.stack(found), source.labels()


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    os.replace(temporary, path)
