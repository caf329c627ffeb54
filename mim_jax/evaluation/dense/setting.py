"""What segmentation and depth share: sizes, readers of pairs, the plan, and one run from crops to predictions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from mim_jax.data.pair_batches import PairReader, train_crops, whole_pairs
from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import MapRule, Pair, split_pairs
from mim_jax.data.split import some
from mim_jax.errors import CheckpointError, ConfigError
from mim_jax.evaluation.dense.inference import PLAIN, Inference, Looks
from mim_jax.evaluation.dense.kept import Kept
from mim_jax.evaluation.dense.training import Loss, Plan, State, train
from mim_jax.evaluation.dense.trunk import Trunk
from mim_jax.evaluation.protocol import Protocol, Task
from mim_jax.methods.base import Variables
from mim_jax.training.sharding import batch_shards, make_mesh, on_every_device

INFERENCES = ("slide", "whole")


@dataclasses.dataclass(frozen=True)
class Dense(Protocol):
    """The settings that the sections `evaluation.segmentation` and `evaluation.depth` have in common."""

    source: str = ""
    eval_source: str = ""
    blocks: tuple[int, ...] = ()
    pixel_patch: int = 0
    crop: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (0, 0)
    short: int = 0
    long: int = 2048
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    inference: str = "slide"
    steps: int = 40000
    warmup_steps: int = 1500
    batch_size: int = 16
    lr: float = 1e-3
    min_lr: float = 0.0
    weight_decay: float = 1e-4
    clip_norm: float = 0.0
    window_batch: int = 16
    checkpoint_every: float = 1.0
    feature: str = "patch tokens"

    def features(self, method: Any) -> tuple[str, ...]:
        del method
        return ()

    @property
    def where(self) -> str:
        return f"evaluation.{self.name}"

    @classmethod
    def values(cls, section: Any) -> dict[str, Any]:
        """The section as arguments of the class."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "feature"]
        values = {name: section[name] for name in names if name in section}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def check(self) -> None:
        """Refuses what no data can make right.

        Raises:
            ConfigError: names the key and the mend.
        """
        if not self.source:
            raise ConfigError(
                f"{self.where}.source is empty; name pairs of images and maps, such as "
                f"--config.{self.where}.source='folder:DIR/images?map=DIR/annotations'"
            )
        if self.inference not in INFERENCES:
            raise ConfigError(f"{self.where}.inference = '{self.inference}' is not one of {', '.join(INFERENCES)}")
        if not 0 <= self.warmup_steps < self.steps:
            raise ConfigError(
                f"{self.where}.warmup_steps = {self.warmup_steps} must be from 0 to below "
                f"{self.where}.steps = {self.steps}"
            )
        for key in ("crop", "stride"):
            if len(getattr(self, key)) != 2 or min(getattr(self, key)) < 0:
                raise ConfigError(f"{self.where}.{key} = {getattr(self, key)} must be (height, width), or (0, 0)")
        if any(step > side > 0 for step, side in zip(self.stride, self.crop, strict=True)):
            raise ConfigError(
                f"{self.where}.stride = {self.stride} leaves gaps between windows of {self.crop}; lower it"
            )


@dataclasses.dataclass
class Setting:
    """A dense protocol on one task: every size known, data open."""

    protocol: Dense
    task: Task
    view: PairView
    stride: tuple[int, int] | None
    train: PairReader
    held_out: PairReader
    batch: int
    mesh: Any

    @classmethod
    def of(cls, protocol: Dense, task: Task, rule: MapRule, photometric: bool, cat_max_ratio: float) -> Setting:
        """Opens the data.

        Raises:
            DataError: as `data.pairs`. ConfigError: a stride larger than the crop.
        """
        data = task.data
        own = tuple(next(iter(data.views.values())).size)
        crop = tuple(side or default for side, default in zip(protocol.crop, own, strict=True))
        stride = tuple(step or max(int(side * 2 / 3), 1) for step, side in zip(protocol.stride, crop, strict=True))
        if any(step > side for step, side in zip(stride, crop, strict=True)):
            raise ConfigError(f"{protocol.where}.stride = {stride} leaves gaps between windows of {crop}; lower it")
        mean = tuple(data.mean) * (data.channels if len(data.mean) == 1 else 1)
        view = PairView(
            crop=(int(crop[0]), int(crop[1])),
            short=protocol.short or min(crop),
            long=max(protocol.long, protocol.short or min(crop)),
            scale=(float(protocol.scale[0]), float(protocol.scale[1])),
            cat_max_ratio=cat_max_ratio,
            flip=protocol.flip,
            photometric=photometric,
            fill=tuple(int(round(255 * value)) for value in mean),
            padding=rule.padding,
        )
        readers = []
        for split in ("train", "eval"):
            pairs, indices = split_pairs(protocol.source, protocol.eval_source, split)
            readers.append(PairReader(pairs, some(indices, task.limit), rule, data.channels, data.max_pixels))
        mesh = task.mesh or make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
        shards = batch_shards(mesh)
        batch = max(protocol.batch_size // shards, 1) * shards
        if batch != protocol.batch_size:
            task.say(
                f"{protocol.name}: batches of {batch} instead of {protocol.batch_size} crops, for {shards} devices"
            )
        sliding = (int(stride[0]), int(stride[1])) if protocol.inference == "slide" else None
        return cls(protocol, task, view, sliding, readers[0], readers[1], batch, mesh)

    def raw_pixels(self, copies: int) -> Trunk:
        """Patches of the image in place of an encoder.

        Raises:
            ConfigError: patches that do not fill the crop.
        """
        crop = self.view.crop
        patch = self.protocol.pixel_patch or max(1, min(16, min(crop) // 8))
        if crop[0] % patch or crop[1] % patch:
            raise ConfigError(
                f"{self.protocol.where}.pixel_patch = {patch} does not divide the crop {crop}; give a divisor of "
                f"{math.gcd(*crop)}"
            )
        return Trunk(None, patch=patch, copies=copies)

    def plan(self, trunk: Trunk, head: nn.Module, loss: Loss, layer_decay: float = 1.0) -> Plan:
        p, data = self.protocol, self.task.data
        return Plan(
            trunk=trunk,
            head=head,
            loss=loss,
            mean=tuple(data.mean),
            std=tuple(data.std),
            size=(*self.view.crop, data.channels),
            steps=p.steps,
            batch=self.batch,
            lr=p.lr,
            min_lr=p.min_lr,
            warmup_steps=p.warmup_steps,
            weight_decay=p.weight_decay,
            layer_decay=layer_decay,
            clip_norm=p.clip_norm,
        )

    def trained(self, plan: Plan) -> tuple[State, Variables, float]:
        """The state after training, the variables of the trunk on the devices, the last training loss."""
        variables = on_every_device(plan.trunk.fitted(self.task.encoder.variables), self.mesh)
        task, every = self.task, self.protocol.checkpoint_every
        crops = functools.partial(
            train_crops,
            self.train,
            self.view,
            steps=plan.steps,
            batch_size=self.batch,
            seed=task.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=task.data.threads,
        )
        kept = None
        if task.workdir and every:
            kept = Kept(task.workdir, every, len(self.train), self.batch, plan.steps, task.say)
        with contextlib.closing(kept) if kept else contextlib.nullcontext():
            from_step = lambda step: crops(start=step)  # noqa: E731
            state, loss = train(plan, variables, from_step, self.mesh, task.seed, f"{self.protocol.where}.lr", kept)
        return state, variables, loss

    def predictions(
        self, plan: Plan, state: State, variables: Variables, looks: Looks = PLAIN
    ) -> Iterator[tuple[Pair, Float[Array, "H W K"]]]:
        """This process's held-out pairs, each with its prediction (`inference.Inference`)."""
        infer = Inference(
            plan,
            state,
            variables,
            self.view,
            self.stride,
            self.protocol.window_batch,
            list(self.mesh.local_devices),
            looks,
        )
        pairs = whole_pairs(
            self.held_out,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=self.task.data.threads,
        )
        return infer(pairs)

    def settings(self, trunk: Trunk) -> dict[str, Any]:
        """Sizes in force."""
        return {
            "crop": list(self.view.crop),
            "stride": list(self.stride) if self.stride else None,
            "short": self.view.short,
            "batch_size": self.batch,
            "blocks": [block + 1 for block in trunk.blocks],
        }


def finite(values: np.ndarray, name: str) -> None:
    """Refuses predictions that are no numbers; `name` is the image's."""
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"the prediction for image '{name}' has NaN or infinite values; evaluate an earlier checkpoint with step=N"
        )
