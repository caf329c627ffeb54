"""Protocol `depth`: depth per pixel by a linear head on frozen patch tokens (DINOv2, Oquab et al. 2023)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from mim_jax.data.pairs import Depths
from mim_jax.errors import ConfigError, DataError, check_choices
from mim_jax.evaluation.dense.inference import sum_over_processes
from mim_jax.evaluation.dense.scores import depth_scores
from mim_jax.evaluation.dense.setting import Dense, Setting, finite
from mim_jax.evaluation.dense.training import LogDepth
from mim_jax.evaluation.dense.trunk import Trunk, own_vit, resolve_blocks
from mim_jax.evaluation.protocol import Numbers, Task
from mim_jax.models.dense_heads import DepthHead

UNITS = {"rmse": "m", "abs_rel": "1"}


@dataclasses.dataclass(frozen=True)
class Depth(Dense):
    """Settings as in `recipes.dense.depth`; the scores are means over images."""

    name: ClassVar[str] = "depth"
    unit: float = 0.001
    low: float = 0.001
    high: float = 10.0
    bins: int = 256
    upsample: int = 4
    cls_token: bool = True
    scaling: str = "none"

    @classmethod
    def from_config(cls, evaluation: Any) -> Depth:
        found = cls(**cls.values(evaluation["depth"]))
        found.check()
        check_choices(found, found.where, scaling=("none", "median"))
        if not 0 < found.low < found.high:
            raise ConfigError(f"{found.where}.low = {found.low} must be above 0 and below high = {found.high}")
        return found

    def run(self, task: Task) -> Numbers:
        setting = Setting.of(self, task, Depths(self.unit, self.low, self.high), True, 1.0)
        trunk = self.trunk(task, setting)
        plan = setting.plan(trunk, DepthHead(self.low, self.high, self.bins, self.upsample), LogDepth())
        state, variables, loss = setting.trained(plan)
        names = ("rmse", "abs_rel", "delta1")
        total = np.zeros(len(names) + 2)  # sums of the scores, images, pixels
        for pair, output in setting.predictions(plan, state, variables):
            predicted = np.asarray(output)[: pair.map.shape[0], : pair.map.shape[1], 0]
            finite(predicted, pair.name)
            scores = depth_scores(np.clip(predicted, self.low, self.high), pair.map, self.scaling)
            if scores is not None:
                total += [*(scores[name] for name in names), 1, (pair.map > 0).sum()]
        total = sum_over_processes(total)
        images = total[len(names)]
        if not images:
            raise DataError(
                f"the depth maps of '{self.eval_source or self.source}' have no depth between "
                f"{self.low} and {self.high} m; set {self.where}.unit"
            )
        counts = {
            "train": len(setting.train),
            "eval": len(setting.held_out),
            "eval_with_depth": int(images),
            "pixels": int(total[-1]),
        }
        metrics = {name: float(total[i] / images) for i, name in enumerate(names)}
        return Numbers(metrics, counts, setting.settings(trunk), {"train_loss": loss}, UNITS)

    def trunk(self, task: Task, setting: Setting) -> Trunk:
        """What gives the maps."""
        method = task.encoder.method
        if method is None:
            return setting.raw_pixels(copies=1)
        blocks = resolve_blocks(method, self.blocks, False, f"{self.where}.blocks")
        vit = own_vit(method, setting.view.crop, False, 0.0, self.where)
        return Trunk(method, blocks, normed=True, cls=self.cls_token, vit=vit)
