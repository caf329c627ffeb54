"""`wds:GLOB`: WebDataset, tar files whose members are grouped by name: `key.jpg`, `key.cls`."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Int64

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import IMAGE_EXTENSIONS, Reader, check_bytes, expand
from mim_jax.data.sources.tar import members
from mim_jax.errors import DataError

LONGEST_LABEL = 64  # bytes of a class number


class WebDataset(Source):
    """Members are found by one pass over the headers of every tar; then each record is one read at a known place.

    Members that share everything up to the first dot of the file name are one record: its image is the first member
    with an image's extension (or the one named by `?image=ext`), its label the number in `.cls`. Groups without an
    image are left out.
    """

    def __init__(self, paths: tuple[str, ...], spec: Spec):
        self.dtype = spec.depth()
        self.paths = paths
        self._reader = Reader()
        extensions = (spec.options["image"],) if "image" in spec.options else IMAGE_EXTENSIONS
        places, labels, self._keys = [], [], []
        for number, path in enumerate(paths):
            for key, image, label in _records(path, extensions, spec.text):
                places.append((number, *image))
                labels.append(label)
                self._keys.append(key)
        if not places:
            raise DataError(
                f"data source '{spec.text}' holds no members with an image's extension ({', '.join(extensions)}); "
                "name theirs by ?image=EXTENSION"
            )
        self._places = np.array(places, np.int64)  # file, offset, size
        self.labelled = any(label is not None for label in labels)
        self._labels = labels if self.labelled else None

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> Record:
        number, offset, size = self._places[self.at(i)].tolist()
        check_bytes(size)
        try:
            image = self._reader.read(self.paths[number], offset, size)
        except OSError as error:
            raise DataError(f"cannot be read: {error}; copy it anew") from error
        return {"image": image, "label": None if self._labels is None else self._labels[i], "name": self.name(i)}

    def labels(self) -> Int64[np.ndarray, " N"]:
        found = self._labels or [None] * len(self)
        return np.array([-1 if label is None else label for label in found], np.int64)

    def name(self, i: int) -> str:
        return f"{os.path.basename(self.paths[self._places[self.at(i), 0]])}/{self._keys[i]}"


def _records(path: str, extensions: tuple[str, ...], spec: str) -> list[tuple[str, tuple[int, int], int | None]]:
    """(key, (offset, size) of the image, label) of every group in one tar, in the order of the file."""
    groups: dict[str, dict[str, tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            for member in members(path):
                folder, name = os.path.split(member.name)
                key, _, extension = name.partition(".")
                if not key:
                    continue
                key, extension = os.path.join(folder, key), extension.lower()
                groups.setdefault(key, {})[extension] = (member.offset, member.size)
                if extension == "cls":
                    file.seek(member.offset)
                    labels[key] = _label(file.read(min(member.size, LONGEST_LABEL)), member.name)
    except (DataError, OSError) as error:
        raise DataError(f"data source '{spec}': '{path}' {_said(error)}") from error
    found = []
    for key, parts in groups.items():
        image = next((parts[e] for e in parts if e in extensions or e.rpartition(".")[2] in extensions), None)
        if image is not None:
            found.append((key, image, labels.get(key)))
    return found


def _said(error: DataError | OSError) -> str:
    return f"cannot be read: {error.strerror}; make it readable" if isinstance(error, OSError) else str(error)


def _label(text: bytes, member: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"has '{member[:80]}', which is {text[:40]!r}, not a class number; pack it anew") from None


def open_spec(spec: Spec) -> Source:
    """Opens `wds:GLOB[?image=ext&depth=16]`."""
    spec.check_options(("image", "depth"))
    return WebDataset(expand(spec.target, "tar", spec.text), spec)
