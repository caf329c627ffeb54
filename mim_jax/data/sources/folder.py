"""`folder:DIR`: image files, in one folder per class or all in one."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Int64

from mim_jax.data.remote import below, is_remote, read
from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import IMAGE_EXTENSIONS, LARGEST, read_image, require_folder
from mim_jax.errors import DataError


class Folder(Source):
    """Files below a folder, in the order of their paths; the class is the first folder of the path.

    Where images lie directly in the folder it is taken as flat: every image below it counts, without labels.
    """

    def __init__(self, root: str, spec: Spec):
        self.dtype = spec.depth()
        self._remote = is_remote(root)
        if self._remote:
            self.root = root.rstrip("/")
            self._paths = sorted(path for path in _listed(self.root, spec.text) if _is_image(path))
        else:
            self.root = require_folder(root, spec.text)
            self._paths = sorted(images_below(self.root))
        if not self._paths:
            raise DataError(
                f"data source '{spec.text}': '{self.root}' holds no image files ({', '.join(IMAGE_EXTENSIONS)}); name "
                "the folder above them, or the scheme of another kind of file, such as wds: or parquet:"
            )
        if all(os.sep in path for path in self._paths):
            self.labelled = True
            self.classes = tuple(sorted({path.split(os.sep, 1)[0] for path in self._paths}))
            self._number = {name: i for i, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Record:
        name = self.name(i)
        image = read(f"{self.root}/{name}", LARGEST) if self._remote else read_image(os.path.join(self.root, name))
        label = self._number[name.split(os.sep, 1)[0]] if self.labelled else None
        return {"image": image, "label": label, "name": name}

    def labels(self) -> Int64[np.ndarray, " N"]:
        found = [self._number[path.split(os.sep, 1)[0]] if self.labelled else -1 for path in self._paths]
        return np.array(found, np.int64)

    def name(self, i: int) -> str:
        return self._paths[self.at(i)]


def images_below(root: str) -> list[str]:
    """Paths of image files relative to `root`; hidden files and folders are left out.

    Links to folders are followed, but not back into a folder on the way there, which would never end.
    """
    found = []
    above = {root: {_identity(root)}}
    for folder, folders, names in os.walk(root, followlinks=True):
        way = above.pop(folder)
        folders[:] = [f for f in folders if not f.startswith(".") and _identity(os.path.join(folder, f)) not in way]
        above |= {os.path.join(folder, f): way | {_identity(os.path.join(folder, f))} for f in folders}
        for name in names:
            if _is_image(name):
                found.append(os.path.relpath(os.path.join(folder, name), root))
    return found


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split(os.sep))
    return not hidden and path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def _listed(root: str, spec: str) -> list[str]:
    try:
        return below(root)
    except DataError as error:
        raise DataError(f"data source '{spec}': {error}") from error


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def open_spec(spec: Spec) -> Source:
    """Opens `folder:DIR[?depth=16]`."""
    spec.check_options(("depth",))
    return Folder(spec.target, spec)
