"""`parquet:GLOB`: the Hugging Face layout, image struct{bytes, path} and an integer label."""

from __future__ import annotations

import bisect
import collections
import itertools
import json
import logging
import os
import threading

import numpy as np
from jaxtyping import Int64

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import expand
from mim_jax.errors import DataError, nearest

MEGABYTES = 2048  # that may stay in memory, and that one row group may take
LABELS = ("label", "labels", "fine_label", "target", "cls", "class")
log = logging.getLogger(__name__)


class Parquet(Source):
    """Rows of parquet files. A row group is the least that can be read; those read last stay in memory.

    `?cache=MB` says how much may stay (per process, 2048). A data set that fits is read once; of a larger one every
    record may cost a whole row group, so convert it first (`mim-jax data convert`).
    """

    def __init__(self, paths: tuple[str, ...], spec: Spec):
        from pyarrow import parquet

        self.dtype = spec.depth()
        self.paths = paths
        self._budget = spec.integer("cache", MEGABYTES) << 20
        most = max(self._budget, MEGABYTES << 20)
        groups: list[tuple[int, int, int, int]] = []  # file, group in it, rows, first row in the file
        size = 0
        for number, path in enumerate(paths):
            metadata, schema = _footer(parquet, path, spec.text)
            if number == 0:
                self.image = _image_column(schema, path, spec)
                self.label = _label_column(schema, path, spec)
                self.classes = _classes(schema, self.label)
                columns = [self.image, *([self.label] if self.label else [])]
                kinds = [schema.field(name).type for name in columns]
            elif set(columns) - set(schema.names) or [schema.field(name).type for name in columns] != kinds:
                raise DataError(
                    f"data source '{spec.text}': '{path}' has other columns than '{paths[0]}'; name files of one kind"
                )
            first = 0
            for group in range(metadata.num_row_groups):
                # Asking for single columns here would be finer, but pyarrow 26 aborts the process at damaged ones.
                rows, taken = metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size
                if rows < 0 or taken < 0 or taken > most:
                    raise DataError(
                        f"data source '{spec.text}': row group {group} of '{path}' takes {taken >> 20} MB, more than "
                        f"the {most >> 20} MB that it may; write smaller row groups, or raise ?cache=MB"
                    )
                groups.append((number, group, rows, first))
                first += rows
                size += taken
        self._groups = groups
        self._ends = list(itertools.accumulate(rows for _, _, rows, _ in groups))
        self.labelled = self.label is not None
        self._clear()
        if size > self._budget:
            log.warning(
                "%s is larger (%d MB) than the %d MB that may stay in memory: random access will read whole row "
                "groups again and again; convert it (mim-jax data convert), or raise ?cache=MB",
                *(spec.text, size >> 20, self._budget >> 20),
            )

    def _clear(self) -> None:
        self._cache: collections.OrderedDict[int, tuple] = collections.OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_held", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._clear()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> Record:
        group, row = self._place(i)
        images, labels = self._group(group)
        image = images[row].as_py()
        if image is None:
            raise DataError("has no image bytes; add them, or remove the row")
        label = None if labels is None else labels[row].as_py()
        return {"image": image, "label": label, "name": self.name(i)}

    def labels(self) -> Int64[np.ndarray, " N"]:
        from pyarrow import parquet

        if self.label is None:
            return np.full(len(self), -1)
        columns = []
        for number, path in enumerate(self.paths):
            try:
                column = parquet.read_table(path, columns=[self.label]).column(self.label)
                columns.append(column.fill_null(-1).to_numpy().astype(np.int64))
            except Exception as error:  # as in `_group`
                raise DataError(f"data source '{self.spec}': the labels of '{path}' {_said(error)}") from error
            rows = sum(group[2] for group in self._groups if group[0] == number)
            if len(columns[-1]) != rows:
                raise DataError(
                    f"data source '{self.spec}': '{path}' holds {len(columns[-1])} labels for {rows} records; "
                    "write it anew"
                )
        return np.concatenate(columns)

    def name(self, i: int) -> str:
        group, row = self._place(i)
        number, _, _, first = self._groups[group]
        return f"{os.path.basename(self.paths[number])} row {first + row}"

    def _place(self, i: int) -> tuple[int, int]:
        i = self.at(i)
        group = bisect.bisect_right(self._ends, i)
        return group, i - self._ends[group] + self._groups[group][2]

    def _group(self, group: int) -> tuple:
        """Columns of a row group. Two threads may read the same one at once, which costs time and nothing else."""
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
        try:
            columns = self._read(group)
        except DataError:
            raise
        except Exception as error:  # Arrow raises many kinds at damaged pages; all mean the same here
            raise DataError(_said(error)) from error
        size = sum(column.nbytes for column in columns if column is not None)
        with self._lock:
            if group not in self._cache:
                self._cache[group] = columns
                self._held += size
            while self._held > self._budget and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._held -= sum(column.nbytes for column in old if column is not None)
        return columns

    def _read(self, group: int) -> tuple:
        import pyarrow
        from pyarrow import parquet

        number, inside, rows, _ = self._groups[group]
        columns = [self.image, *([self.label] if self.label else [])]
        with parquet.ParquetFile(self.paths[number]) as file:
            table = file.read_row_group(inside, columns=columns, use_threads=False)
        if table.num_rows != rows:
            raise DataError(
                f"cannot be read: its row group holds {table.num_rows} rows, and the file says {rows}; write it anew"
            )
        images = table.column(self.image).combine_chunks()
        if pyarrow.types.is_struct(images.type):
            images = images.field("bytes")
        return images, table.column(self.label).combine_chunks() if self.label else None


def _said(error: Exception) -> str:
    return f"cannot be read: {' '.join(str(error).split())[:300]}; write its file anew"


def _footer(parquet, path: str, spec: str):
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            return file.metadata, file.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # the last: names that are not UTF-8
        raise DataError(
            f"data source '{spec}': '{path}' is not a readable parquet file: {' '.join(str(error).split())}; "
            "write it anew, or name another"
        ) from error


def _is_image(kind) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _image_column(schema, path: str, spec: Spec) -> str:
    name = spec.options.get("image", "")
    found = [n for n in schema.names if _is_image(schema.field(n).type)]
    if name in found:
        return name
    if name:
        raise DataError(f"data source '{spec.text}': '{path}' has no image column '{name}'{nearest(name, found)}")
    if not found:
        raise DataError(
            f"data source '{spec.text}': '{path}' has no column of encoded images; it has {schema.names}; name a file "
            "that has one"
        )
    preferred = [n for n in ("image", "img") if n in found]
    if not preferred and len(found) > 1:
        raise DataError(f"data source '{spec.text}': choose the image column by ?image=NAME, one of {', '.join(found)}")
    return (preferred or found)[0]


def _label_column(schema, path: str, spec: Spec) -> str | None:
    from pyarrow import types

    name = spec.options.get("label", "")
    found = [n for n in schema.names if types.is_integer(schema.field(n).type)]
    if name and name not in found:
        raise DataError(f"data source '{spec.text}': '{path}' has no integer column '{name}'{nearest(name, found)}")
    return name or next((n for n in LABELS if n in found), None)


def _classes(schema, label: str | None) -> tuple[str, ...] | None:
    """Class names from the note that Hugging Face leaves in the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def open_spec(spec: Spec) -> Source:
    """Opens `parquet:GLOB[?image=column&label=column&cache=MB&depth=16]`."""
    spec.check_options(("image", "label", "cache", "depth"))
    return Parquet(expand(spec.target, "parquet", spec.text), spec)
