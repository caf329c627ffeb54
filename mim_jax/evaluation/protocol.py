"""The contract of a protocol: built from a config, run on one encoder and one task, returns named numbers."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from mim_jax.data.ordered import EvalBatches, eval_batches
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.features import Extractor, FeatureSet, check_finite
from mim_jax.evaluation.labels import check_labels
from mim_jax.methods.base import Variables

Split = Literal["train", "eval"]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a protocol found.

    metrics: by name, shares in 0..1. counts: how many images and classes they rest on. settings: those in force,
    where they differ from those asked for. details: what else is worth keeping, such as a final training loss.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Task:
    """One encoder and the data on which it is judged; features are computed once and shared by the protocols.

    data: the `data` section of the config. batch_size: images a forward pass. wanted: every feature name that any
    protocol of this evaluation asks for. limit: at most so many images of each split, 0 for all.
    say: takes one sentence for the person who waits. mesh: where the encoder lies, by default all devices.
    """

    encoder: Encoder
    data: Any
    wanted: tuple[str, ...]
    batch_size: int = 256
    seed: int = 0
    limit: int = 0
    say: Callable[[str], None] = print
    mesh: Mesh | None = None
    opened: dict[str, EvalBatches] = dataclasses.field(default_factory=dict, init=False)

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

    def extract(self, split: Split) -> FeatureSet:
        """Features of the images of 'train' or 'eval' as the evaluation transform gives them."""
        if split not in self.opened:
            self.opened[split] = self.open(self.data, split)
        return self.run_over(self.opened[split])

    def open(self, data: Any, split: Split, **view: Any) -> EvalBatches:
        """This process's batches of a split; `view`: `view` and `seed` of `eval_batches`."""
        return eval_batches(
            data,
            split=split,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=self.limit,
            **view,
        )

    def run_over(self, batches: Iterable[dict[str, np.ndarray]]) -> FeatureSet:
        """Features of any batches, refused where they are not finite."""
        found = self.extractor(self.encoder.variables, batches)
        check_finite(found, self.encoder.name)
        return found


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """A way to judge an encoder. A subclass is a frozen dataclass too; its fields are its settings."""

    name: ClassVar[str]
    feature: str = "pooled"

    @classmethod
    @abc.abstractmethod
    def from_config(cls, evaluation: Any) -> Protocol:
        """Builds the protocol from the `evaluation` section; raises ConfigError at an impossible value."""

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
