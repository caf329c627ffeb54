"""Protocol `linear_sweep`: DINO's and iBOT's linear evaluation, with all learning rates trained at once.

Linear layers without normalisation on frozen features, SGD with momentum, cosine over the epochs (DINO, Caron et al.
2021; iBOT, Zhou et al. 2022, section 4.1). As there, every image is cropped and flipped anew in every epoch; with
`augment = False` the features of the evaluation crop are computed once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from mim_jax.evaluation import many_heads
from mim_jax.evaluation.augmented import TORCHVISION, epoch_features
from mim_jax.evaluation.encoders import check_feature
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class LinearSweep(Protocol):
    """Settings as in `recipes.evaluation.linear_sweep`; each rate is lr * batch / lr_batch (lr_batch 0: lr itself)."""

    name: ClassVar[str] = "linear_sweep"
    feature: str = "sweep"
    epochs: int = 100
    batch_size: int = 1024
    lr: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    lr_batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    wanted: tuple[str, ...] = ()
    choose_by: str = "eval"
    augment: bool = True
    scale: tuple[float, float] = (0.08, 1.0)

    @classmethod
    def from_config(cls, evaluation: Any) -> LinearSweep:
        values = {**evaluation["linear_sweep"]}
        values["wanted"] = tuple(values.pop("features"))
        for name in values["wanted"]:
            check_feature(name, "evaluation.linear_sweep.features")
        return cls(**(values | {key: tuple(values[key]) for key in ("lr", "scale")}))

    def features(self, method: Method) -> tuple[str, ...]:
        default = "cls" if getattr(method.model, "cls_token", False) else "pooled"
        return tuple(dict.fromkeys(self.wanted)) or (default,)

    def run(self, task: Task) -> Numbers:
        names = (task.encoder.feature("pooled"),) if task.encoder.method is None else self.features(task.encoder.method)
        train, held_out, classes = task.train, task.held_out, task.classes
        learn, judge = np.arange(len(train)), held_out
        chosen_by = judge
        if self.choose_by == "train":
            learn, choose = many_heads.learn_and_choose(len(train))
            chosen_by = dataclasses.replace(
                train,
                features={name: vectors[choose] for name, vectors in train.features.items()},
                labels=train.truth[choose],
                index=train.index[choose],
            )
        recipe = many_heads.recipe_of(self, len(learn))
        heads = self.fit(task, recipe, names, learn)
        table, results = {}, {}
        for name in names:
            scores = many_heads.accuracies(recipe, heads[name], chosen_by.features[name][None], chosen_by.truth)[0][0]
            one, five = many_heads.accuracies(recipe, heads[name], judge.features[name][None], judge.truth)
            table[name] = {f"{rate:g}": float(score) for rate, score in zip(self.lr, scores, strict=True)}
            best = int(scores.argmax())  # of equals the lowest rate
            results[name] = (float(scores[best]), self.lr[best], float(one[0, best]), float(five[0, best]))
        name = max(results, key=lambda name: results[name][0])
        _, rate, top1, top5 = results[name]
        metrics = {"top1": top1} | ({"top5": top5} if classes > 5 else {})
        settings = {"chosen_feature": name, "chosen_lr": rate, "batch_size": recipe.batch}
        counts = {**task.counts(), "train": len(learn)}
        return Numbers(metrics, counts, settings, {"top1_by_lr": table, "chosen_by": self.choose_by})

    def fit(
        self, task: Task, recipe: many_heads.Recipe, names: tuple[str, ...], learn: Int[np.ndarray, " L"]
    ) -> dict[str, many_heads.Heads]:
        """The trained heads of every feature, all rates in one program; widths differ, so features come in turn.

        learn: numbers of the training images that count.
        """
        key, train, classes = jax.random.key(task.seed), task.train, task.classes
        if not self.augment:
            return {
                name: many_heads.train(recipe, train.features[name][None, learn], train.truth[learn], classes, key)
                for name in names
            }
        widths = {name: train.features[name].shape[1] for name in names}
        state = {name: many_heads.begin(recipe, (1, width), classes, key) for name, width in widths.items()}
        for epoch in range(recipe.epochs):
            found = epoch_features(task, names, self.scale, epoch, TORCHVISION)
            labels = jnp.asarray(found.truth[learn])
            for name in names:
                vectors = jnp.asarray(found.features[name][None, learn])
                state[name] = many_heads.train_epoch(recipe, state[name], vectors, labels, epoch, key)
        return {name: trained.heads for name, trained in state.items()}
