"""Protocol `attentive`: CAE's attentive probe (Chen et al. 2022, section 4.2) on all tokens of a frozen encoder.

One learned query attends to the tokens; batch normalisation without affine, one linear layer, SGD with Nesterov's
momentum, warm-up and cosine per step. The batch statistics are those of the whole batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.features import fetch
from mim_jax.evaluation.linear import ProbeState
from mim_jax.evaluation.protocol import Numbers, Protocol, Task, top
from mim_jax.evaluation.tokens import GIB, KeptTokens, MadeTokens, TokenEncoder
from mim_jax.methods.base import Method
from mim_jax.models.attentive import AttentiveProbe
from mim_jax.training.lars import matrices
from mim_jax.training.schedules import Schedule
from mim_jax.training.sharding import on_every_device, replicated


@dataclasses.dataclass(frozen=True)
class Attentive(Protocol):
    """Settings as in `recipes.attentive_probe`; peak learning rate = lr * batch / lr_batch (lr_batch 0: lr itself)."""

    name: ClassVar[str] = "attentive"
    feature: str = "tokens"
    epochs: float = 90.0
    warmup_epochs: float = 10.0
    batch_size: int = 8192
    lr: float = 0.4
    lr_batch: int = 0
    min_lr: float = 1e-6
    momentum: float = 0.9
    weight_decay: float = 0.0
    heads: int = 0
    augment: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    cache_gb: float = 8.0
    cls: bool = True  # whether the class token, where there is one, is among the tokens

    @classmethod
    def from_config(cls, evaluation: Any) -> Attentive:
        where, section = f"evaluation.{cls.name}", evaluation[cls.name]
        values = {field.name: section[field.name] for field in dataclasses.fields(cls) if field.name in section}
        probe = cls(**(values | {"scale": tuple(values["scale"])}))
        if probe.batch_size < 2:
            raise ConfigError(f"{where}.batch_size = {probe.batch_size}: batch normalisation needs 2 or more")
        if not 0 <= probe.warmup_epochs < probe.epochs:
            raise ConfigError(
                f"{where}.warmup_epochs = {probe.warmup_epochs} must be from 0 to below {where}.epochs = {probe.epochs}"
            )
        if not probe.lr > 0:
            raise ConfigError(f"{where}.lr = {probe.lr} must be above 0")
        return probe

    def features(self, method: Method) -> tuple[str, ...]:
        return ()

    def run(self, task: Task) -> Numbers:
        encoder = TokenEncoder(task.encoder, task.data, task.mesh, cls=self.cls)
        classes, images = task.classes, len(task.train)
        plan = self.plan(
            images, classes, encoder.shards, task.batch_size, self.heads_of(task.encoder, encoder.shape[1])
        )
        kept = self.kept(images * math.prod(encoder.shape))
        settings: dict[str, Any] = {}
        if plan.batch < self.batch_size:
            settings = {"batch_size": plan.batch, "peak_lr": plan.peak}
            task.say(
                f"{self.name} probe: batches of {plan.batch} images instead of {self.batch_size}, which is what the "
                f"{images} training images and {encoder.shards} devices allow; peak learning rate {plan.peak:g}"
            )
        settings["tokens"] = f"kept as {kept}" if kept else "made anew for every batch"
        source = KeptTokens(encoder, task, "train", kept) if kept else MadeTokens(encoder, task, self.crops)
        key, loss = jax.random.key(task.seed), np.nan
        state = on_every_device(plan.init(key, encoder.shape), encoder.mesh)
        try:
            for epoch in range(math.ceil(self.epochs)):
                losses = []
                for tokens, labels in source.epoch(epoch, plan.parts, plan.part, plan.steps_per_epoch):
                    state, loss = train_step(plan, state, tokens, labels)
                    losses.append(loss)
                loss = float(np.mean([float(x) for x in losses]))
                if not np.isfinite(loss):
                    raise ConfigError(
                        f"the {self.name} probe diverged (loss {loss}); lower evaluation.{self.name}.lr = {self.lr}"
                    )
        finally:
            getattr(source, "close", lambda: None)()
        ranked, truth = self.judge(plan, state, encoder, task)
        return Numbers(top(ranked, truth, classes), task.counts(), settings, {"train_loss": loss})

    def model(self, classes: int, heads: int) -> AttentiveProbe:
        return AttentiveProbe(classes, heads)

    def direction(self) -> optax.GradientTransformation:
        """What is multiplied by minus the learning rate: SGD with Nesterov's momentum."""
        decay = optax.add_decayed_weights(self.weight_decay, mask=matrices)
        return optax.chain(decay, optax.trace(decay=self.momentum, nesterov=True))

    @property
    def warmup_inclusive(self) -> bool:
        return True

    @property
    def crops(self) -> tuple[float, float] | None:
        return self.scale if self.augment else None

    def kept(self, values: int) -> str:
        """How tokens of so many numbers are kept in memory; '' where they are not."""
        if self.augment:
            return ""
        fits = [dtype for dtype, size in (("float32", 4), ("bfloat16", 2)) if values * size <= self.cache_gb * GIB]
        return fits[0] if fits else ""

    def heads_of(self, encoder: Encoder, width: int) -> int:
        """Heads of the attention: those asked for, else the encoder's; one for raw pixels.

        Raises:
            ConfigError: heads that do not divide the width of the tokens.
        """
        if encoder.method is None:
            return 1
        own = getattr(encoder.model, "heads", 1)
        heads = self.heads or (own if isinstance(own, int) else own[-1])
        if width % heads:
            raise ConfigError(
                f"evaluation.attentive.heads = {heads} does not divide the width {width}; choose a divisor"
            )
        return heads

    def plan(self, images: int, classes: int, shards: int, together: int, heads: int) -> Plan:
        """The settings with the batch that images and devices allow, in parts of about `together` images.

        Raises:
            ConfigError: fewer images than devices.
        """
        wanted = min(self.batch_size, images)
        parts = max(1, math.ceil(wanted / max(together, shards)))
        part = wanted // parts // shards * shards
        if part * parts < 2:
            raise ConfigError(
                f"evaluation.{self.name}.batch_size = {self.batch_size} of {images} training images cannot be split "
                f"over {shards} devices; use more images or fewer devices"
            )
        batch = parts * part
        peak = self.lr * batch / self.lr_batch if self.lr_batch else self.lr
        return Plan(self, classes, heads, parts, part, images // batch, peak)

    def judge(
        self, plan: Plan, state: ProbeState, encoder: TokenEncoder, task: Task
    ) -> tuple[Int[np.ndarray, "M T"], Int[np.ndarray, " M"]]:
        """Best classes of every held-out image, and its label."""
        rows = []
        for batch in task.open(task.data, "eval"):
            tokens, rest = encoder.batch(batch)
            rows.append(fetch(rank(plan, state, tokens, rest, encoder.mesh)))
        return np.concatenate([row["ranked"] for row in rows]), np.concatenate([row["label"] for row in rows])


@dataclasses.dataclass(frozen=True)
class Plan:
    """An attentive probe whose sizes are known: hashable, so that it can be compiled in.

    A batch is `parts` times `part` images: all share the statistics of the batch norm, one part at a time is pooled.
    """

    probe: Attentive
    classes: int
    heads: int
    parts: int
    part: int
    steps_per_epoch: int
    peak: float

    @property
    def batch(self) -> int:
        return self.parts * self.part

    @property
    def model(self) -> AttentiveProbe:
        return self.probe.model(self.classes, self.heads)

    @property
    def direction(self) -> optax.GradientTransformation:
        return self.probe.direction()

    @property
    def rate(self) -> Schedule:
        ends: dict[str, Any] = dict(peak=self.peak, minimum=self.probe.min_lr, warmup_epochs=self.probe.warmup_epochs)
        return Schedule(
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.probe.epochs,
            warmup_inclusive=self.probe.warmup_inclusive,
            **ends,
        )

    def init(self, key: PRNGKeyArray, shape: tuple[int, int]) -> ProbeState:
        """A fresh probe for tokens of this shape, (T, D)."""
        variables = self.model.init(key, jnp.zeros((2, *shape)), train=True)
        params = variables["params"]
        return ProbeState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], self.direction.init(params))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    plan: Plan, state: ProbeState, tokens: Float[Array, "P B T D"], labels: Int[Array, "P B"]
) -> tuple[ProbeState, Float[Array, ""]]:
    """One step on one batch; returns the loss before it."""

    def loss_of(params):
        # Recomputed in the backward pass, so that the memory is that of one part.
        pool = jax.checkpoint(lambda part: plan.model.apply({"params": params}, part, method="pooled"))
        pooled = jax.lax.map(pool, tokens).reshape(labels.size, -1)
        variables = {"params": params, "batch_stats": state.batch_stats}
        out, moved = plan.model.apply(variables, pooled, train=True, mutable=["batch_stats"], method="classify")
        loss = optax.softmax_cross_entropy_with_integer_labels(out.logits, labels.reshape(-1)).mean()
        return loss, moved["batch_stats"]

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    direction, momentum = plan.direction.update(gradient, state.momentum, state.params)
    rate = plan.rate(state.step)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    return ProbeState(state.step + 1, params, batch_stats, momentum), loss


@functools.partial(jax.jit, static_argnums=(0, 4))
def rank(
    plan: Plan, state: ProbeState, tokens: Float[Array, "B T D"], rest: dict[str, Array], mesh: Mesh
) -> dict[str, Array]:
    """`rest` and the first min(5, classes) classes of every image, best first, whole on every device."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    out: Any = plan.model.apply(variables, tokens, train=False)
    found = {**rest, "ranked": jax.lax.top_k(out.logits, min(5, plan.classes))[1]}
    return jax.lax.with_sharding_constraint(found, replicated(mesh))
