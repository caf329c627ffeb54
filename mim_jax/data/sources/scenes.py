"""`scenes:DIR`: two views of a scene as two files, NAME_1.EXT and NAME_2.EXT (CroCo's layout)."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import UInt8

from mim_jax.data.decode import decode, pixels
from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import require_folder
from mim_jax.data.sources.folder import images_below
from mim_jax.errors import DataError

ENDS = ("_1", "_2")


class Scenes(Source):
    """Pairs below a folder, in the order of their paths, without labels. A record's image is both views, of one size,
    the first above the second; the crops `random_upper` and `random_lower` take them apart again."""

    def __init__(self, root: str, spec: Spec):
        self.root = require_folder(root, spec.text)
        found: dict[str, dict[str, str]] = {}
        for path in sorted(images_below(self.root)):
            stem = os.path.splitext(path)[0]
            if stem.endswith(ENDS):
                found.setdefault(stem[:-2], {})[stem[-2:]] = path
        alone = next((pair for pair in found.values() if len(pair) == 1), None)
        if alone:
            raise DataError(
                f"data source '{spec.text}': '{next(iter(alone.values()))}' has no second view beside it; add it, or "
                "remove this one"
            )
        if not found:
            raise DataError(
                f"data source '{spec.text}': '{self.root}' holds no images called NAME_1 and NAME_2; name a folder "
                "that does"
            )
        self._names = list(found)
        self._paths = [tuple(found[name][end] for end in ENDS) for name in self._names]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> Record:
        views = [self._view(path) for path in self._paths[self.at(i)]]
        if views[0].shape != views[1].shape:
            sizes = " and ".join(f"{view.shape[1]} x {view.shape[0]}" for view in views)
            raise DataError(f"has views of {sizes} pixels; make them equal")
        return {"image": np.concatenate(views), "label": None, "name": self._names[i]}

    def _view(self, path: str) -> UInt8[np.ndarray, "H W C"]:
        try:
            with open(os.path.join(self.root, path), "rb") as file:
                data = file.read()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}; make it readable, or remove the pair") from error
        return pixels(decode(data, channels=3, dtype=self.dtype))

    def name(self, i: int) -> str:
        return self._names[self.at(i)]


def open_spec(spec: Spec) -> Source:
    """Opens `scenes:DIR`."""
    spec.check_options(())
    return Scenes(spec.target, spec)
