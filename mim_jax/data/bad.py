"""Bad records: counted, written down, and not endured for ever."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mim_jax.errors import DataError


class BadRecords:
    """The distinct records that could not be read so far.

    path: where to write them, one line each (number, tab, sentence), or None; lines of an earlier part of the run
        count. total: records they are a share of. most: the share above which `add` raises.
    """

    def __init__(self, path: str | os.PathLike[str] | None, total: int, most: float):
        self.path = path
        self._total = total
        self._most = most
        self.indices: set[int] = set()
        if path is not None and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.indices |= {int(number) for number in (line.split("\t")[0] for line in file) if number.isdigit()}

    def __len__(self) -> int:
        return len(self.indices)

    def add(self, found: Iterable[tuple[int, str]]) -> None:
        """Notes records. Raises DataError once they are more than the share that is allowed."""
        new = {index: sentence for index, sentence in found if index not in self.indices}
        if not new:
            return
        self.indices |= set(new)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(f"{index}\t{' '.join(sentence.split())}\n" for index, sentence in new.items())
        if len(self.indices) > self._most * self._total:
            where = f"all are in '{self.path}'" if self.path is not None else "the last one"
            raise DataError(
                f"{len(self.indices)} of {self._total} records are bad, more than data.max_bad_fraction = "
                f"{self._most}; {where}: {list(new.values())[-1]}, or raise data.max_bad_fraction"
            )
