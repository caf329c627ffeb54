"""Protocol `finetune`: the whole network trained on labels, by the recipe of BEiT (section 3.1) and MAE (appendix A.1).

It is a run of its own (`methods.finetune` in `training.loop`), kept in the task's folder: the same command goes on
where it was stopped, and `load_run` opens what comes out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax.data.ordered import eval_batches
from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split, some
from mim_jax.errors import ConfigError, MimError
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.features import Extractor, FeatureSet
from mim_jax.evaluation.finetune_config import SECTION, finetune_config
from mim_jax.evaluation.head import scores
from mim_jax.evaluation.labels import check_labels
from mim_jax.evaluation.protocol import Numbers, Protocol, Task
from mim_jax.methods import registry
from mim_jax.methods.base import Method, Variables
from mim_jax.recipes.evaluation import finetune as recipe
from mim_jax.training.data import TrainData
from mim_jax.training.loop import train
from mim_jax.training.optimizer import check as check_optimizer
from mim_jax.training.resolve import Plan, plan
from mim_jax.training.sharding import make_mesh
from mim_jax.training.start import Source, Start
from mim_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Finetune(Protocol):
    """settings: section `evaluation.finetune` as sorted (key, value) pairs; `recipes.evaluation.finetune` explains
    them."""

    name: ClassVar[str] = "finetune"
    baselines: ClassVar[tuple[str, ...]] = ("untrained",)
    settings: tuple[tuple[str, Any], ...] = tuple(sorted(recipe().items()))

    @classmethod
    def from_config(cls, evaluation: Any) -> Finetune:
        section = evaluation["finetune"]
        tidy = lambda value: tuple(value) if isinstance(value, list | tuple) else value  # noqa: E731
        made = cls(settings=tuple(sorted((key, tidy(section[key])) for key in recipe())))
        values = dict(made.settings)
        if not 0 <= values["warmup_epochs"] < values["epochs"]:
            raise ConfigError(
                f"{SECTION}.warmup_epochs = {values['warmup_epochs']} must be from 0 to below "
                f"{SECTION}.epochs = {values['epochs']}"
            )
        if not values["lr"] > 0:
            raise ConfigError(f"{SECTION}.lr = {values['lr']} must be above 0")
        if values["images_per_class"] and values["label_fraction"] != 1:
            raise ConfigError(
                f"{SECTION}.images_per_class = {values['images_per_class']} and {SECTION}.label_fraction = "
                f"{values['label_fraction']} both say how many labels there are; leave one out"
            )
        return made

    def shown(self) -> dict[str, Any]:
        return dict(self.settings)

    def features(self, method: Method) -> tuple[str, ...]:
        del method
        return ()

    def run(self, task: Task) -> Numbers:
        """Trains, or goes on training; then judges the weights (their moving average, where it is asked for).

        Raises:
            ConfigError, DataError: settings, labels or sizes that do not serve. MimError: a signal stopped it.
        """
        with contextlib.ExitStack() as stack:
            folder = task.workdir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            counted = labelled(task)
            mesh = task.mesh or make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
            config = finetune_config(dict(self.settings), task, counted["classes"], mesh)
            check_optimizer(config.optimizer, epochs=config.training.epochs, where=SECTION)
            method = registry.build(config)
            begin = start(task, method)
            if not (folder / "config.json").exists():
                begin.check()
            data = TrainData(config, folder)
            length = plan(config, data.records, mesh)
            every = length.steps(dict(self.settings)["eval_every"])
            judge = HeldOut(config, method, mesh, every, task)
            state = train(config, folder, method, data, lambda *_: (judge,), begin_with=begin)
            if int(state.step) < length.total_steps:
                raise MimError(
                    f"fine-tuning was stopped at step {int(state.step)} of {length.total_steps} and is kept in "
                    f"{folder}; the same command continues from there"
                )
            return self._numbers(task, config, length, state, judge, folder, {**counted, "train": data.records})

    def _numbers(
        self,
        task: Task,
        config: ConfigDict,
        length: Plan,
        state: TrainState,
        judge: HeldOut,
        folder: Path,
        counts: dict[str, int],
    ) -> Numbers:
        found = judge(Variables(state.weights(), state.extra), int(state.step))
        metrics = {name.removeprefix("eval_"): value for name, value in found.items() if name != "eval_loss"}
        curve = [[step / length.steps_per_epoch, value] for step, value in logged(folder, "eval_top1")]
        losses = [value for _, value in logged(folder, "loss")]
        details = {"eval_loss": found["eval_loss"], "curve": curve, "steps": length.total_steps}
        details |= {"train_loss": losses[-1]} if losses else {}
        details |= {"run": str(folder)} if task.workdir else {}
        in_force = {
            "batch_size": config.training.batch_size * config.method.repeated,
            "peak_lr": length.peak_lr,
            "image_size": config.model.image_size,
            "relative_bias": config.model.get("relative_bias", "none"),
        }
        return Numbers(metrics, counts, in_force, details)


def start(task: Task, method: Method) -> Start:
    """The encoder of the task; the untrained baseline is the same recipe from random weights."""
    encoder = task.encoder

    def read() -> Source | None:
        if encoder.name == "untrained" or encoder.method is None:
            return None
        return Source("the pretrained encoder", encoder.method, encoder.variables)

    return Start(method, read, say=task.say)


def labelled(task: Task) -> dict[str, int]:
    """Numbers of training and held-out images and of classes, from the labels alone.

    Raises:
        LabelError: labels that are missing or do not serve.
    """
    settings = Settings.from_config(task.data)

    def labels(split: str) -> FeatureSet:
        source, indices = open_split(settings, split)
        indices = some(indices, task.limit)
        return FeatureSet({}, source.labels()[indices] if source.labelled else None, indices)

    train, held_out = labels("train"), labels("eval")
    classes = check_labels(train, held_out, settings.source, settings.eval_source, complete=not task.limit)
    return {"train": len(train), "eval": len(held_out), "classes": classes}


class HeldOut:
    """Evaluator of the loop: accuracy and loss on the held-out images, padding left out, on any number of devices."""

    name = "held-out accuracy"

    def __init__(self, config: ConfigDict, method: Any, mesh: Mesh, every_steps: int, task: Task):
        self.every_steps, self._method = every_steps, method
        encoder = Encoder("fine-tuned", Variables(params={}), method)
        self._extract = Extractor(encoder, ("pooled",), config.data.mean, config.data.std, mesh)
        self._batches = eval_batches(
            config.data,
            split="eval",
            batch_size=task.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            limit=task.limit,
        )

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        found = self._extract(variables, self._batches)
        kernel, bias = (np.asarray(jax.device_get(x)) for x in self._method.classifier(variables.params))
        logits = found.features["pooled"] @ kernel + bias
        return {f"eval_{name}": value for name, value in scores(logits, found.truth)[0].items()}


def logged(folder: Path, name: str) -> Iterator[tuple[int, float]]:
    """(step, value) of one number in the log of a run."""
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line)
        if entry.get(name) is not None:
            yield int(entry["step"]), float(entry[name])
