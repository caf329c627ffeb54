"""Protocol `ood`: does a score on frozen features tell other data from the data set's own? (MOOD, Li et al., CVPR
2023; MOODv2, TPAMI 2024.)"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from mim_jax.errors import ConfigError, nearest
from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.head import head_feature, head_of
from mim_jax.evaluation.linear import Linear
from mim_jax.evaluation.named import named
from mim_jax.evaluation.neighbours import neighbours
from mim_jax.evaluation.protocol import Numbers, Protocol, Split, Task
from mim_jax.evaluation.views import VIEW, one_view
from mim_jax.measures.detection import detection
from mim_jax.measures.ood import SCORES, Reference
from mim_jax.methods.base import Method

METHODS = (*SCORES, "knn")


@dataclasses.dataclass(frozen=True)
class OutOfDistribution(Protocol):
    """Scores of held-out images against those of `sources`, which need no labels.

    feature: what the classifier reads (`evaluation.linear.feature`, or what a fine-tuned head gets): all scores see
    the same. The pixels are no baseline: their thousands of dimensions would cost more than all the rest.
    """

    name: ClassVar[str] = "ood"
    baselines: ClassVar[tuple[str, ...]] = ("untrained",)
    sources: tuple[str, ...] = ()
    methods: tuple[str, ...] = METHODS
    k: int = 50
    square_resize: bool = False
    probe: Linear = dataclasses.field(default_factory=Linear)

    @classmethod
    def from_config(cls, evaluation: Any) -> OutOfDistribution:
        values, probe = evaluation["ood"], Linear.from_config(evaluation)
        sources, methods = tuple(map(str, values["sources"])), tuple(values["methods"])
        if not named(sources, "evaluation.ood.sources"):
            raise ConfigError(
                "evaluation.ood.sources is empty; name at least one set of other images, such as "
                "--config.evaluation.ood.sources=digits"
            )
        if not methods:
            raise ConfigError(f"evaluation.ood.methods is empty; choose from {', '.join(METHODS)}")
        for method in methods:
            if method not in METHODS:
                raise ConfigError(f"evaluation.ood.methods: '{method}' is not a score{nearest(method, METHODS)}")
        if values["k"] < 1:
            raise ConfigError(f"evaluation.ood.k = {values['k']} must be at least 1")
        return cls(probe.feature, sources, methods, values["k"], values["square_resize"], probe)

    def features(self, method: Method) -> tuple[str, ...]:
        return (head_feature(method, self.probe),)

    def run(self, task: Task) -> Numbers:
        head, train, inside = head_of(task), task.train, task.held_out
        if self.square_resize:
            train, inside = self.squared(task, "train"), self.squared(task, "eval")
        others = {name: self.other(task, spec) for name, spec in named(self.sources, "").items()}
        reference = Reference(train.features[head.feature], train.truth, head.weight, head.bias)
        k = min(self.k, len(train))
        by_set: dict[str, dict[str, dict[str, float]]] = {name: {} for name in others}
        methods = self.possible(reference, task)
        for method in methods:
            own = self.score(method, reference, inside.features[head.feature], k)
            for name, found in others.items():
                theirs = self.score(method, reference, found.features[head.feature], k)
                by_set[name][method] = detection(own, theirs)
        metrics = {
            f"{method}_{metric}": float(np.mean([found[method][metric] for found in by_set.values()]))
            for method in methods
            for metric in ("auroc", "fpr95")
        }
        counts = task.counts() | {name: len(found) for name, found in others.items()}
        settings: dict[str, Any] = {"head": head.trained, "feature": head.feature}
        settings |= {"k": k} if k != self.k and "knn" in self.methods else {}
        return Numbers(metrics, counts, settings, {"sets": by_set})

    def possible(self, reference: Reference, task: Task) -> tuple[str, ...]:
        """The methods that so many training images allow: a principal space that holds them all leaves no residual."""
        principal = {"vim": reference.principal(reference.classes), "residual": reference.principal(1000)}
        out = [m for m in self.methods if principal.get(m, 0) >= len(reference.features)]
        if out:
            task.say(
                f"ood: {' and '.join(out)} left out, because {len(reference.features)} training images lie in a "
                f"principal space of {max(principal[m] for m in out)} dimensions; learn from more images"
            )
        if len(out) == len(self.methods):
            raise ConfigError(
                f"evaluation.ood.methods: none of {', '.join(out)} can be computed; learn from more images"
            )
        return tuple(method for method in self.methods if method not in out)

    def score(
        self, method: str, reference: Reference, features: Float[np.ndarray, "M D"], k: int
    ) -> Float[np.ndarray, " M"]:
        """One score of all images; higher means in-distribution."""
        if method in SCORES:
            return SCORES[method](reference, features)
        return knn(reference, features, k)

    def other(self, task: Task, spec: str) -> FeatureSet:
        return self.squared(task, "eval", spec) if self.square_resize else task.features_of(spec)

    def squared(self, task: Task, split: Split, source: str = "") -> FeatureSet:
        """Features of whole images at the model's size, their aspect ratio not kept (MOODv2: bilinear)."""
        data = one_view(task.data, crop="whole", flip=0.0, interpolation="bilinear")
        with data.unlocked():
            data.eval_source = source or data.eval_source
        return task.run_over(task.open(data, split, view=VIEW))


def knn(reference: Reference, features: Float[np.ndarray, "M D"], k: int) -> Float[np.ndarray, " M"]:
    """Minus the distance to the k-th nearest training feature, all of unit length (Sun et al., ICML 2022)."""
    cosine = np.concatenate([similarity[:, -1] for similarity, _ in neighbours(reference.features, features, k)])
    return -np.sqrt(np.maximum(2 - 2 * cosine, 0.0))
