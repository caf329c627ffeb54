"""Protocol `segmentation`: a linear or a UPerNet head on patch tokens, mIoU on label maps of their own size.

Linear: DINOv2 (Oquab et al. 2023, section 7.4). UPerNet: BEiT (Bao et al. 2022, section 3.2), MAE (appendix A.4).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mim_jax.data.pairs import NO_LABEL, Labels
from mim_jax.errors import ConfigError, DataError, check_choices, nearest
from mim_jax.evaluation.dense.inference import fill_up, looks_of, sum_over_processes
from mim_jax.evaluation.dense.scores import always_the_commonest, confusion, segmentation_scores
from mim_jax.evaluation.dense.setting import Dense, Setting, finite
from mim_jax.evaluation.dense.training import CrossEntropy
from mim_jax.evaluation.dense.trunk import Trunk, own_vit, resolve_blocks
from mim_jax.evaluation.protocol import Numbers, Task
from mim_jax.models.dense_heads import LinearHead, UPerNet
from mim_jax.recipes import dense as recipes

HEADS, ENCODERS = ("linear", "upernet"), ("frozen", "finetune")


@dataclasses.dataclass(frozen=True)
class Segmentation(Dense):
    """Settings as in `recipes.dense.segmentation`."""

    name: ClassVar[str] = "segmentation"
    recipe: str = ""
    classes: int = 0
    ignore: int = 255
    offset: int = 0
    head: str = "linear"
    encoder: str = "frozen"
    channels: int = 0
    dropout: float = 0.1
    auxiliary: float = 0.4
    photometric: bool = True
    cat_max_ratio: float = 0.75
    layer_decay: float = 1.0
    drop_path_rate: float = 0.0
    test_scales: tuple[int | float, ...] = (1.0,)
    test_flip: bool = False

    @classmethod
    def from_config(cls, evaluation: Any) -> Segmentation:
        section = dict(evaluation["segmentation"])
        name, known = section["recipe"], recipes.SEGMENTATION_RECIPES
        if name:
            if name not in known:
                raise ConfigError(f"evaluation.segmentation.recipe = '{name}' is not a recipe{nearest(name, known)}")
            section = recipes.fill(section, known[name])
        found = cls(**cls.values(section))
        found.check()
        check_choices(found, found.where, head=HEADS, encoder=ENCODERS)
        if found.classes < 2:
            raise ConfigError(
                f"{found.where}.classes = {found.classes}: say how many classes the label maps have, 2 or more"
            )
        found.check_scales()
        return found

    def check_scales(self) -> None:
        """Refuses sizes of the test that cannot be; raises ConfigError."""
        key, scales = f"{self.where}.test_scales", self.test_scales
        if not scales or not all(scale > 0 for scale in scales):
            raise ConfigError(f"{key} = {scales} must be one or more numbers above 0")
        if self.inference == "whole" and set(scales) != {1}:
            raise ConfigError(
                f"{key} = {scales} needs {self.where}.inference = slide; 'whole' gives every image the size of the crop"
            )

    def run(self, task: Task) -> Numbers:
        setting = Setting.of(
            self, task, Labels(self.classes, self.ignore, self.offset), self.photometric, self.cat_max_ratio
        )
        trunk, head = self.parts(task, setting)
        plan = setting.plan(trunk, head, CrossEntropy(self.auxiliary), self.layer_decay)
        state, variables, loss = setting.trained(plan)
        matrix = np.zeros((self.classes, self.classes), np.int64)
        looks = looks_of(setting.view, self.test_scales, self.test_flip)
        for pair, scores in setting.predictions(plan, state, variables, looks):
            labels = jnp.asarray(fill_up(pair.map, NO_LABEL))
            found = np.asarray(confusion(scores.argmax(-1), labels, classes=self.classes))
            finite(np.asarray(scores.max()), pair.name)
            matrix += found
        matrix = sum_over_processes(matrix)
        if not matrix.sum():
            raise DataError(
                f"the label maps of '{self.eval_source or self.source}' have no pixel with a label; set "
                f"{self.where}.ignore and {self.where}.offset to what they hold"
            )
        metrics, details = segmentation_scores(matrix)
        counts = {
            "train": len(setting.train),
            "eval": len(setting.held_out),
            "classes": self.classes,
            "classes_in_eval": int((matrix.sum(1) > 0).sum()),
            "pixels": int(matrix.sum()),
        }
        details |= {"train_loss": loss, "always the commonest class": always_the_commonest(matrix)}
        return Numbers(metrics, counts, setting.settings(trunk), details)

    def parts(self, task: Task, setting: Setting) -> tuple[Trunk, nn.Module]:
        """What gives the maps, and the head on them.

        Raises:
            ConfigError: blocks that are not there; fine-tuning of what is no vision transformer.
        """
        method, spread = task.encoder.method, self.head == "upernet"
        if method is None:
            trunk = setting.raw_pixels(copies=4 if spread else 1)
        else:
            blocks = resolve_blocks(method, self.blocks, spread, f"{self.where}.blocks")
            trained = self.encoder == "finetune"
            vit = own_vit(method, setting.view.crop, trained, self.drop_path_rate, f"{self.where}.encoder")
            trunk = Trunk(method, blocks, normed=not spread, vit=vit, trained=trained)
        if not spread:
            return trunk, LinearHead(self.classes)
        width = self.channels or getattr(task.encoder.model, "width", None)
        return trunk, UPerNet(self.classes, width if isinstance(width, int) else 512, self.dropout)
