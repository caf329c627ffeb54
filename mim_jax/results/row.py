"""A row of results: one number of a paper's, or one that was measured, with all that it takes to get it again.

`results/README.md` says what every key means. A row that is not whole, or holds a key that nobody reads, is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from mim_jax.errors import DataError, nearest

CERTAINTIES = ("certain", "uncertain")
# METHOD/MODEL/DATA/LENGTH/MEASURE, and a word more where two rows would be the same
ID = re.compile(r"[a-z0-9_]+/[a-z0-9_.]+/[a-z0-9_]+/[0-9.]+(ep|k|it)/[a-z0-9_.]+(/[A-Za-z0-9_.-]+)?")
HASH = re.compile(r"[0-9a-f]{64}")
NUMBER = (int, float)
Kind = TypeVar("Kind", bound="Row")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a published and a measured row share.

    id: unique and stable. method: the system, whose file the row stands in. model: in the paper's words. data: what
    was pretrained on. epochs: of pretraining. metric: in words (`metrics.measure` says which protocol it is). value:
    in %, where the metric does not say otherwise. config: `FILE:argument=value,...`, '' where there is none.
    """

    id: str
    method: str
    model: str
    data: str
    epochs: int | float
    metric: str
    value: int | float
    config: str

    where: ClassVar[str] = ""

    @classmethod
    def read(cls: type[Kind], values: Mapping[str, Any], file: str) -> Kind:
        """The row that an entry of a file holds.

        Raises:
            DataError: a key that is missing, unknown, or of the wrong kind; names the file, the row and the key.
        """
        name = f"{file}, {cls.where} row '{values.get('id', '(without id)')}'"
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise DataError(f"{name}: there is no key '{key}'{nearest(key, fields)}")
        for key, field in fields.items():
            if key not in values and field.default is dataclasses.MISSING:
                raise DataError(f"{name}: the key '{key}' is missing; add it")
            if key in values:
                _check_kind(name, key, values[key], str(field.type))
        given: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in values.items()}
        row = cls(**given)
        row.check(name)
        return row

    def check(self, name: str) -> None:
        """Raises DataError where a value cannot be."""
        if not ID.fullmatch(self.id):
            raise DataError(
                f"{name}: the id is not METHOD/MODEL/DATA/LENGTH/MEASURE, as mae/vit_b16/imagenet1k/1600ep/knn"
            )
        if not self.id.startswith(f"{self.method}/"):
            raise DataError(f"{name}: the id does not begin with the method, '{self.method}'; begin it so")
        if self.epochs < 0 or not (self.model and self.data and self.metric):
            raise DataError(f"{name}: model, data and metric need words, and epochs are not negative")

    def to_json(self) -> dict[str, Any]:
        """The row as a file holds it: in the order of the fields, without those that say nothing."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        found = {key: value for key, value in vars(self).items() if value != defaults[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Published(Row):
    """A number of a paper's, or of a release.

    table: where it stands there. source: where it was read (paper, readme, a repository). certainty: 'uncertain' was
    not checked against the paper. iterations: where the paper counts those. tolerance: how far ours may be, in units of
    the value; 0: as is usual for the measure. changes: overrides of the config that it needs, `evaluation.x=y`.
    """

    paper: str = dataclasses.field(kw_only=True)
    table: str = dataclasses.field(kw_only=True)
    source: str = dataclasses.field(kw_only=True)
    certainty: str = dataclasses.field(kw_only=True)
    iterations: int = dataclasses.field(default=0, kw_only=True)
    tolerance: int | float = dataclasses.field(default=0, kw_only=True)
    changes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    note: str = dataclasses.field(default="", kw_only=True)

    where: ClassVar[str] = "published"

    def check(self, name: str) -> None:
        super().check(name)
        if self.certainty not in CERTAINTIES:
            raise DataError(f"{name}: certainty '{self.certainty}' is not one of {', '.join(CERTAINTIES)}")
        if not (self.paper and self.source):
            raise DataError(f"{name}: a published number names its paper and its source; give both")
        if self.tolerance < 0 or self.iterations < 0:
            raise DataError(f"{name}: tolerance and iterations are not negative")


@dataclasses.dataclass(frozen=True)
class Measured(Row):
    """A number that was measured with this code.

    row: id of the published row that it repeats, '' for none; at another scale than the paper's it is not compared.
    spread: standard deviation of the sample over `seeds`, None for one seed. baselines: the same of other encoders, by
    name. counts: images and classes. hours: of pretraining and evaluation, 0 where they were not kept. log:
    of the training, below the folder of results. checkpoint_hash: of every seed, joined by commas.
    """

    seeds: tuple[int, ...] = dataclasses.field(kw_only=True)
    hardware: str = dataclasses.field(kw_only=True)
    command: str = dataclasses.field(kw_only=True)
    commit: str = dataclasses.field(kw_only=True)
    checkpoint_hash: str = dataclasses.field(kw_only=True)
    row: str = dataclasses.field(default="", kw_only=True)
    scale: str = dataclasses.field(default="", kw_only=True)
    spread: int | float | None = dataclasses.field(default=None, kw_only=True)
    hours: int | float = dataclasses.field(default=0, kw_only=True)
    baselines: Any = dataclasses.field(default=None, kw_only=True)
    counts: Any = dataclasses.field(default=None, kw_only=True)
    log: str = dataclasses.field(default="", kw_only=True)
    note: str = dataclasses.field(default="", kw_only=True)

    where: ClassVar[str] = "measured"

    def check(self, name: str) -> None:
        super().check(name)
        hashes = self.checkpoint_hash.split(",")
        if not self.seeds or not all(isinstance(seed, int) for seed in self.seeds):
            raise DataError(f"{name}: seeds is a list of at least one whole number")
        if len(hashes) != len(self.seeds) or not all(HASH.fullmatch(one) for one in hashes):
            raise DataError(f"{name}: checkpoint_hash holds 64 hex digits for each of the {len(self.seeds)} seeds")
        if not (self.hardware and self.command and self.config):
            raise DataError(f"{name}: a measured number names its hardware, its command and its config; give all three")
        if self.spread is not None and (self.spread < 0 or len(self.seeds) < 2):
            raise DataError(f"{name}: a spread needs two seeds or more, and is not negative")
        for key in ("baselines", "counts"):
            if not isinstance(getattr(self, key) or {}, dict):
                raise DataError(f"{name}: {key} is not an object of numbers by name")


def _check_kind(name: str, key: str, value: Any, kind: str) -> None:
    wanted: Any = {"str": str, "int": int, "int | float": NUMBER, "int | float | None": (*NUMBER, type(None))}.get(kind)
    if kind.startswith("tuple"):
        wanted = (list, tuple)
    if wanted and (not isinstance(value, wanted) or isinstance(value, bool)):
        raise DataError(f"{name}: {key} = {value!r} is not {'a list' if kind.startswith('tuple') else kind}")
