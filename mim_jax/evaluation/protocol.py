"""The contract of a protocol: built from a config, run on one encoder and one task, returns named numbers."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from mim_jax.data.ordered import EvalBatches, eval_batches
from mim_jax.evaluation.encoders import PIXELS, Encoder
from mim_jax.evaluation.features import Extractor, FeatureSet, check_finite
from mim_jax.evaluation.labels import check_labels
from mim_jax.methods.base import Method, Variables

Split = Literal["train", "eval"]
Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a protocol found.

    metrics: by name, shares in 0..1 where `units` does not say otherwise. counts: how many images and classes they
    rest on. settings: those in force, where they differ from those asked for. details: what else is worth keeping,
    such as a final training loss, a curve, or the names of files that were written. units: by metric, such as 'px';
    '1' is a plain number.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    units: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Task:
    """One encoder and the data on which it is judged; features are computed once and shared by the protocols.

    data: the `data` section of the config. batch_size: images a forward pass. wanted: every feature name that any
    protocol of this evaluation asks for. limit: at most so many images of each split, 0 for all.
    say: takes one sentence for the person who waits. mesh: where the encoder lies, by default all devices.
    workdir: where a protocol may keep files of its own (checkpoints, plots); made by whoever writes there first.
    evaluation: the `evaluation` section, for protocols that use another one (`head_of`).
    """

    encoder: Encoder
    data: Any
    wanted: tuple[str, ...]
    batch_size: int = 256
    seed: int = 0
    limit: int = 0
    say: Callable[[str], None] = print
    mesh: Mesh | None = None
    workdir: Path | None = None
    evaluation: Any = None
    opened: dict[str, EvalBatches] = dataclasses.field(default_factory=dict, init=False)
    memo: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)  # of what protocols share

    @functools.cached_property
    def extractor(self) -> Extractor:
        return Extractor(self.encoder, self.wanted, self.data.mean, self.data.std, self.mesh)

    @functools.cached_property
    def train(self) -> FeatureSet:
        return self.extract("train")

    @functools.cached_property
    def held_out(self) -> FeatureSet:
        return self.extract("eval")

    @functools.cached_property
    def classes(self) -> int:
        """Number of classes; raises LabelError where the labels of the two splits do not serve."""
        return check_labels(self.train, self.held_out, self.data.source, self.data.eval_source, complete=not self.limit)

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train), "eval": len(self.held_out), "classes": self.classes}

    def renew(self, variables: Variables) -> None:
        """The same task for other variables: features are forgotten, data and compiled code stay."""
        self.encoder = dataclasses.replace(self.encoder, variables=variables)
        for name in ("train", "held_out", "classes"):
            self.__dict__.pop(name, None)
        self.memo.clear()

    def restart(self, seed: int, workdir: Path | None) -> None:
        """The same task for the next protocol or seed: features stay, what rests on the seed is forgotten."""
        if seed != self.seed:
            self.memo.clear()
        self.seed, self.workdir = seed, workdir

    def extract(self, split: Split) -> FeatureSet:
        """Features of the images of 'train' or 'eval' as the evaluation transform gives them."""
        if split not in self.opened:
            self.opened[split] = self.open(self.data, split)
        return self.run_over(self.opened[split])

    def features_of(self, source: str, change: Change | None = None, limit: int = 0) -> FeatureSet:
        """Features of all images (or of at most `limit`) of another source, by the evaluation transform.

        source: as `data.source`; '' stands for the held-out images. change: applied to every batch of stored pixels
        (`image`, with `label`, `index` and `valid` beside it) before the encoder sees it.
        """
        data = self.data.copy_and_resolve_references()
        if source:
            with data.unlocked():
                data.eval_source = source
        batches = self.open(data, "eval", limit=limit or self.limit)
        return self.run_over(map(change, batches) if change else batches)

    def open(self, data: Any, split: Split, **view: Any) -> EvalBatches:
        """This process's batches of a split; `view`: `view`, `seed`, `limit` of `eval_batches`."""
        return eval_batches(
            data,
            split=split,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **{"limit": self.limit} | view,
        )

    def run_over(self, batches: Iterable[dict[str, np.ndarray]], names: Sequence[str] = ()) -> FeatureSet:
        """Features of any batches, refused where they are not finite; `names`: these alone, by default all wanted."""
        extract = self.extractor
        if names:
            extract = Extractor(self.encoder, names, self.data.mean, self.data.std, self.mesh)
        found = extract(self.encoder.variables, batches)
        check_finite(found, self.encoder.name)
        return found


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """A way to judge an encoder. A subclass is a frozen dataclass too; its fields are its settings.

    random: whether the seed changes its numbers. baselines: what it can be run on beside the pretrained encoder.
    """

    name: ClassVar[str]
    random: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("untrained", PIXELS)
    feature: str = "pooled"

    @classmethod
    @abc.abstractmethod
    def from_config(cls, evaluation: Any) -> Protocol:
        """Builds the protocol from the `evaluation` section; raises ConfigError at an impossible value."""

    def shown(self) -> dict[str, Any]:
        """The settings by name, as results keep them."""
        return dataclasses.asdict(self)

    def features(self, method: Method) -> tuple[str, ...]:
        """Names of the features of whole images that it takes from the task (`encoders.select`)."""
        del method
        return (self.feature,)

    @abc.abstractmethod
    def run(self, task: Task) -> Numbers:
        """Judges `task.encoder`."""


def top(ranked: Int[np.ndarray, "M T"], labels: Int[np.ndarray, " M"], classes: int) -> dict[str, float]:
    """Shares of images whose class is the first, or among the first five, of `ranked` (best first).

    `top5` only where there are more than five classes: else it says nothing.
    """
    hits = ranked == labels[:, None]
    found = {"top1": float(hits[:, 0].mean())}
    if classes > 5:
        found["top5"] = float(hits[:, :5].any(axis=1).mean())
    return found
