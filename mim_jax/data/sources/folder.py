"""`folder:DIR`: image files, in one folder per class or all in one."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Int64

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import IMAGE_EXTENSIONS, require_folder
from mim_jax.errors import DataError


class Folder(Source):
    """Files below a folder, in the order of their paths; the class is the first folder of the path.

    Where images lie directly in the folder it is taken as flat: every image below it counts, without labels.
    """

    def __init__(self, root: str, spec: Spec):
        self.root = require_folder(root, spec.text)
        self.dtype = spec.depth()
        self._paths = sorted(images_below(self.root))
        if not self._paths:
            raise DataError(
                f"data source '{spec.text}': '{self.root}' holds no image files ({', '.join(IMAGE_EXTENSIONS)})"
            )
        if all(os.sep in path for path in self._paths):
            self.labelled = True
            self.classes = tuple(sorted({path.split(os.sep, 1)[0] for path in self._paths}))
            self._number = {name: i for i, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        name = self.name(i)
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                image = file.read()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from error
        label = self._number[name.split(os.sep, 1)[0]] if self.labelled else None
        return {"image": image, "label": label, "name": name}

    def labels(self) -> Int64[np.ndarray, " N"]:
        found = [self._number[path.split(os.sep, 1)[0]] if self.labelled else -1 for path in self._paths]
        return np.array(found, np.int64)

    def name(self, i: int) -> str:
        return self._paths[self.at(i)]


def images_below(root: str) -> list[str]:
    """Paths of image files relative to `root`; hidden files and folders are left out."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS:
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return found


def open_spec(spec: Spec) -> Source:
    """Opens `folder:DIR[?depth=16]`."""
    spec.check_options(("depth",))
    return Folder(spec.target, spec)
