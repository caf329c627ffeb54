"""`hf:NAME[:SPLIT]`: Hugging Face datasets (the extra `hub`), or a folder written by their `save_to_disk`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from jaxtyping import Int64

from mim_jax.data.retry import retried
from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import read_image
from mim_jax.errors import DataError, nearest


class HuggingFace(Source):
    """Images come as the encoded bytes that were stored; SPLIT is `train` where it is left out."""

    def __init__(self, data: Any, split: str, spec: Spec):
        import datasets

        self.dtype = spec.depth()
        self.image = _column(data, spec, "image", datasets.Image)
        self.label = _column(data, spec, "label", datasets.ClassLabel)
        self.labelled = bool(self.label)
        self.classes = tuple(data.features[self.label].names) if self.label else None
        columns = [self.image, *([self.label] if self.label else [])]
        self._data = data.select_columns(columns).cast_column(self.image, datasets.Image(decode=False))
        self._split = split

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> Record:
        row = self._data[self.at(i)]
        image = row[self.image] or {}
        data = image.get("bytes")
        if data is None:
            try:
                data = read_image(image.get("path") or "")
            except DataError as error:
                raise DataError(f"has no image bytes, and its file {error}") from error
        return {"image": data, "label": row[self.label] if self.label else None, "name": self.name(i)}

    def labels(self) -> Int64[np.ndarray, " N"]:
        found = self._data.select_columns([self.label])[:][self.label] if self.label else [None] * len(self)
        return np.array([-1 if label is None else label for label in found], np.int64)

    def name(self, i: int) -> str:
        return f"{self._split}[{self.at(i)}]"


def _column(data: Any, spec: Spec, role: str, kind: type) -> str:
    found = [name for name, feature in data.features.items() if isinstance(feature, kind)]
    name = spec.options.get(role, "")
    if name and name not in found:
        mend = nearest(name, found) or f"; leave {role}= out"
        raise DataError(f"data source '{spec.text}' has no {role} column '{name}'{mend}")
    if not found and role == "image":
        raise DataError(
            f"data source '{spec.text}' has no image among its columns {list(data.features)}; name another data set"
        )
    return name or (role if role in found else "") or (found[0] if found else "")


def open_spec(spec: Spec) -> Source:
    """Opens `hf:NAME[:SPLIT][?config=name&image=column&label=column&depth=16]`."""
    spec.check_options(("config", "image", "label", "depth"))
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data source '{spec.text}' needs Hugging Face datasets: pip install 'mim-jax[hub]'") from error
    name, _, split = spec.target.partition(":")
    split = split or "train"
    try:
        path = os.path.expanduser(name)
        if os.path.exists(os.path.join(path, "dataset_dict.json")):
            data = datasets.load_from_disk(path)[split]
        elif os.path.exists(os.path.join(path, "state.json")):
            data = datasets.load_from_disk(path)
        else:
            data = retried(lambda: datasets.load_dataset(name, spec.options.get("config"), split=split), f"hf:{name}")
    except (DataError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        mend = "" if isinstance(error, DataError) else "; check the name and the split"
        raise DataError(f"data source '{spec.text}' cannot be opened: {reason}{mend}") from error
    return HuggingFace(data, f"{name}:{split}", spec)
