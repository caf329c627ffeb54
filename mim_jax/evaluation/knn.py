"""Protocol `knn`: weighted nearest-neighbour classification of frozen features (DINO, section 4.1)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mim_jax.errors import ConfigError
from mim_jax.evaluation.encoders import check_feature
from mim_jax.evaluation.neighbours import classify
from mim_jax.evaluation.protocol import Numbers, Protocol, Task, top


@dataclasses.dataclass(frozen=True)
class KNN(Protocol):
    """Each of the k nearest training images votes exp(cosine / temperature) for its class; temperature 0: one vote."""

    name: ClassVar[str] = "knn"
    k: tuple[int, ...] = (10, 20)
    temperature: float = 0.07
    feature: str = "pooled"

    @classmethod
    def from_config(cls, evaluation: Any) -> KNN:
        values = evaluation["knn"]
        k, temperature = tuple(values["k"]), float(values["temperature"])
        if not k or min(k) < 1:
            raise ConfigError(f"evaluation.knn.k = {k} must be one or more numbers from 1 on")
        if not temperature >= 0:
            raise ConfigError(f"evaluation.knn.temperature = {temperature} must be 0 (plain votes) or more")
        check_feature(values["feature"], "evaluation.knn.feature")
        return cls(k=k, temperature=temperature, feature=values["feature"])

    def run(self, task: Task) -> Numbers:
        feature, classes = task.encoder.feature(self.feature), task.classes
        k = tuple(dict.fromkeys(min(count, len(task.train)) for count in self.k))
        ranked = classify(
            task.train.features[feature],
            task.train.truth,
            task.held_out.features[feature],
            k=k,
            temperature=self.temperature,
            classes=classes,
        )
        metrics: dict[str, float] = {}
        for count, rows in ranked.items():
            found = top(rows, task.held_out.truth, classes)
            metrics |= {f"{name}_k{count}": value for name, value in found.items()}
        return Numbers(metrics, task.counts(), {"k": list(k)} if k != self.k else {})
