"""What every data source offers: a length, and record i."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, TypedDict

import numpy as np
from jaxtyping import Int64

from mim_jax.errors import DataError, nearest

MOST_LABELS = 1 << 31  # they are int32 in a batch


class Record(TypedDict):
    """One record: an encoded file or decoded pixels (H, W[, C]), its class where there is one, a name for people."""

    image: bytes | np.ndarray
    label: int | None
    name: str


class Source(abc.ABC):
    """Random access to records, safe to use from many threads and to pickle into worker processes.

    spec: what the user wrote. dtype: of the decoded pixels. labelled: whether records have labels.
    classes: their names, where they are known.
    """

    spec: str = ""
    dtype: np.dtype = np.dtype(np.uint8)
    labelled: bool = False
    classes: tuple[str, ...] | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, i: int) -> Record:
        """Record i. Raises IndexError outside of 0..len-1, DataError where the record itself cannot be read."""

    def name(self, i: int) -> str:
        """Record i's name, for messages, without reading its pixels where that can be had."""
        return self[i]["name"]

    def labels(self) -> Int64[np.ndarray, " N"]:
        """The label of every record, -1 where it has none, without decoding pixels.

        Raises DataError at a record that cannot be read.
        """
        return np.fromiter((self._label(i) for i in range(len(self))), np.int64, len(self))

    def _label(self, i: int) -> int:
        try:
            label = self[i]["label"]
            if label is None:
                return -1
            check_label(label)
            return label
        except DataError as error:
            raise DataError(f"record {i} '{self.name(i)}' of data source '{self.spec}' {error}") from error

    def at(self, i: int) -> int:
        """`i`, checked."""
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)} in {self.spec}")
        return int(i)


def check_label(label: int | None) -> None:
    """Raises DataError at what is no class number."""
    if label is None:
        raise DataError("has no label, though others have one; add it, or remove the record")
    if not abs(label) < MOST_LABELS:
        raise DataError(f"has the label {label}, which is no class number; correct it, or remove the record")


@dataclasses.dataclass(frozen=True)
class Spec:
    """`scheme:target?key=value&key=value`, taken apart."""

    text: str
    scheme: str
    target: str
    options: dict[str, str]

    COMMON: ClassVar[tuple[str, ...]] = ("depth",)

    def check_options(self, allowed: tuple[str, ...]) -> None:
        """Refuses an option that the scheme does not have."""
        for key in self.options:
            if key not in allowed:
                mend = nearest(key, allowed) or "; leave it out"
                raise DataError(f"data source '{self.text}': '{key}' is not an option{mend}")

    def integer(self, key: str, default: int) -> int:
        """An option that is a whole number."""
        text = self.options.get(key, str(default))
        if not text.isdigit():
            raise DataError(f"data source '{self.text}': {key} must be a whole number, not '{text}'")
        return int(text)

    def depth(self) -> np.dtype:
        """The pixel type asked for: 8 bits, or 16 (`?depth=16`) for files such as 16-bit grey PNG."""
        depth = self.integer("depth", 8)
        if depth not in (8, 16):
            raise DataError(f"data source '{self.text}': depth must be 8 or 16, not {depth}")
        return np.dtype(np.uint8 if depth == 8 else np.uint16)
