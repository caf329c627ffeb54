"""Protocol `layers`: a linear probe after every block, all at once, and the curve over depth.

Mean-pooled patch tokens of each block through the final norm, batch normalisation without affine, SGD; of a
few learning rates each block's best counts, chosen by a tenth of the training images ("What Do Self-Supervised Vision
Transformers Learn?", Park et al. 2023, section 3). All blocks and rates are trained side by side in one program.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

from mim_jax.evaluation import many_heads
from mim_jax.evaluation.encoders import tokens_by_block
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.methods.base import Method

AT_ONCE = 1 << 30  # bytes of training features that one program takes


@dataclasses.dataclass(frozen=True)
class Layers(Protocol):
    """Settings as in `recipes.evaluation.layers`; each rate is lr * batch / lr_batch (lr_batch 0: lr itself)."""

    name: ClassVar[str] = "layers"
    baselines: ClassVar[tuple[str, ...]] = ("untrained",)
    feature: str = "every block"
    epochs: int = 30
    batch_size: int = 1024
    lr: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    lr_batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0

    @classmethod
    def from_config(cls, evaluation: Any) -> Layers:
        return cls(**({**evaluation["layers"]} | {"lr": tuple(evaluation["layers"]["lr"])}))

    def features(self, method: Method) -> tuple[str, ...]:
        return tuple(f"block{i + 1}" for i in range(len(tokens_by_block(method))))

    def run(self, task: Task) -> Numbers:
        assert task.encoder.method is not None
        names, classes, train, held_out = self.features(task.encoder.method), task.classes, task.train, task.held_out
        learn, choose = many_heads.learn_and_choose(len(train))
        recipe = many_heads.recipe_of(self, len(learn), normalize=True)
        curve, chosen = [], []
        for group in _groups(names, train.features):
            vectors, own = (np.stack([s.features[name] for name in group]) for s in (train, held_out))
            heads = many_heads.train(recipe, vectors[:, learn], train.truth[learn], classes, jax.random.key(task.seed))
            scores = many_heads.accuracies(recipe, heads, vectors[:, choose], train.truth[choose])[0]
            found = many_heads.accuracies(recipe, heads, own, held_out.truth)[0]
            best = scores.argmax(1)
            curve += [float(x) for x in found[np.arange(len(group)), best]]
            chosen += [self.lr[i] for i in best]
        metrics = {"top1_best_block": max(curve), "top1_last_block": curve[-1]}
        details = {"top1_by_block": curve, "best_block": 1 + int(np.argmax(curve)), "lr_by_block": chosen}
        return Numbers(metrics, {**task.counts(), "train": len(learn), "blocks": len(names)}, {}, details)


def _groups(names: tuple[str, ...], features: dict[str, np.ndarray]) -> list[list[str]]:
    """Neighbouring blocks of one width, as many as fit into `AT_ONCE` bytes."""
    groups: list[list[str]] = []
    for name in names:
        size = features[name].nbytes
        if groups and features[groups[-1][0]].shape == features[name].shape and (len(groups[-1]) + 1) * size <= AT_ONCE:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
