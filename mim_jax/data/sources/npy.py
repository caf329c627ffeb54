"""`npy:FILE`: one array (N, H, W) or (N, H, W, C), read from disk as it is needed."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Int64

from mim_jax.data import npyfile
from mim_jax.data.remote import is_remote
from mim_jax.data.retry import not_found
from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import expand
from mim_jax.errors import DataError

DTYPES = ("uint8", "uint16", "float32")


class Npy(Source):
    """uint8, uint16 or float32 (pixels in [0, 1]) images; integer labels (N,) in FILE_labels.npy beside FILE.npy."""

    def __init__(self, path: str, spec: Spec, labels: str | None = None):
        self.path = path
        self._beside = labels
        images = self._open(spec.text)
        if images.ndim not in (3, 4):
            raise DataError(
                f"data source '{spec.text}': shape {images.shape} is not (N, H, W) or (N, H, W, C); save it so"
            )
        self.dtype = images.dtype.newbyteorder("=")
        if self.dtype.name not in DTYPES:
            raise DataError(
                f"data source '{spec.text}': pixels are {self.dtype}; convert to one of {', '.join(DTYPES)}"
            )
        self._length = len(images)
        self._images: np.ndarray | None = images
        self._labels = self._read_labels(spec.text)
        self.labelled = self._labels is not None

    def _open(self, spec: str) -> np.ndarray:
        return _load(self.path, spec, mapped=True)

    def _read_labels(self, spec: str) -> np.ndarray | None:
        path = self._beside or os.path.splitext(self.path)[0] + "_labels.npy"
        if not os.path.exists(path):
            return None
        labels = _load(path, spec)
        if labels.shape != (self._length,) or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"data source '{spec}': '{path}' holds {labels.dtype} {labels.shape}, not {self._length} whole "
                "numbers; save one for each image"
            )
        return labels.astype(np.int64)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_images": None}  # a pickled memory map would be the whole array

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Record:
        i = self.at(i)
        if self._images is None:
            self._images = self._open(self.spec)
        label = None if self._labels is None else int(self._labels[i])
        return {"image": np.asarray(self._images[i], self.dtype), "label": label, "name": self.name(i)}

    def labels(self) -> Int64[np.ndarray, " N"]:
        return np.full(len(self), -1) if self._labels is None else self._labels

    def name(self, i: int) -> str:
        return f"{os.path.basename(self.path)}[{i}]"


def _load(path: str, spec: str, mapped: bool = False) -> np.ndarray:
    try:
        return npyfile.load(path, mapped)
    except DataError as error:
        raise DataError(f"data source '{spec}': '{path}' {error}") from error


def open_spec(spec: Spec) -> Source:
    """Opens `npy:FILE`."""
    spec.check_options(())
    paths = expand(spec.target, "npy", spec.text)
    if len(paths) > 1:
        raise DataError(f"data source '{spec.text}' matches {len(paths)} files; npy reads one; name it")
    if not is_remote(spec.target):
        return Npy(paths[0], spec)
    try:
        labels = expand(os.path.splitext(spec.target)[0] + "_labels.npy", "npy", spec.text)[0]
    except DataError as error:
        if not not_found(error):
            raise
        labels = None
    return Npy(paths[0], spec, labels)
