"""Self-distillation: a student's distribution against a centred, sharpened one of its teacher (DINO, iBOT)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.errors import ConfigError, check_keys

Scalar = float | Float[Array, ""]


def sharpened(logits: Float[Array, "*B K"], center: Float[Array, "K"], temperature: Scalar) -> Float[Array, "*B K"]:
    """softmax((logits - center) / temperature) in float32, without gradient (DINO, Caron et al. 2021, section 3.1)."""
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
    return jax.nn.softmax((logits - center) / temperature, axis=-1)


def crop_loss(
    student: Float[Array, "B S K"], target: Float[Array, "B G K"], temperature: Scalar = 0.1
) -> Float[Array, ""]:
    """Mean cross-entropy over images and all pairs of a teacher's crop and another crop of the student.

    The first G crops of the student are those that the teacher saw; a crop is not compared with itself.
    DINO, equation 3.
    """
    log_student = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    pairs = -jnp.einsum("bgk,bsk->bgs", target, log_student, precision="highest")
    globals_, crops = pairs.shape[1:]
    other = ~jnp.eye(globals_, crops, dtype=bool)
    return jnp.sum(jnp.where(other, pairs, 0.0).mean(0)) / (globals_ * (crops - 1))


def patch_cross_entropy(
    student: Float[Array, "*B K"], target: Float[Array, "*B K"], temperature: Scalar = 0.1
) -> Float[Array, "*B"]:
    """Cross-entropy of each patch, float32 (iBOT, equation 2)."""
    return -jnp.sum(target * jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1), axis=-1)


def mean_per_image(per_patch: Float[Array, "*B N"], hidden: Bool[Array, "*B N"]) -> Float[Array, ""]:
    """Mean over the hidden patches of each image, then over the images.

    An image without hidden patches stays in the mean as 0 (iBOT's code; later losses of this kind leave it out).
    """
    count = jnp.maximum(hidden.sum(-1).astype(jnp.float32), 1.0)
    return jnp.mean(jnp.where(hidden, per_patch, 0.0).sum(-1) / count)


def teacher_temperature(
    epoch: Scalar, start: float, end: float, warmup_epochs: int, delay: int = 0
) -> Float[Array, ""]:
    """The teacher's temperature, constant within an epoch: `warmup_epochs` values from `start` to `end`, both reached.

    delay: epochs at `start` before that. `end` is first used in epoch delay + warmup_epochs - 1.
    """
    number = jnp.floor(jnp.asarray(epoch, jnp.float32)) - delay
    ramp = start + (end - start) * jnp.clip(number, 0, None) / max(warmup_epochs - 1, 1)
    return jnp.where(number >= warmup_epochs, end, ramp)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The loss of iBOT with its settings; the temperatures without 'student' are the teacher's."""

    cls_weight: float = 1.0
    patch_weight: float = 1.0
    student_temperature: float = 0.1
    temperature_start: float = 0.04  # of the first epoch
    temperature: float = 0.07  # from the end of the warm-up on
    patch_temperature_start: float = 0.04
    patch_temperature: float = 0.07
    warmup_epochs: int = 30  # of both temperatures
    center_momentum: float = 0.9
    patch_center_momentum: float = 0.9

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.distillation") -> Distillation:
        """From a section of a config.

        Raises:
            ConfigError: an unknown key, or an impossible value.
        """
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        check_keys(cls, values, where, "a distillation loss")
        for key, value in values.items():
            if "temperature" in key and not value > 0:
                raise ConfigError(f"{where}.{key} {value} must be positive, such as {fields[key]}")
            if key.endswith("_momentum") and not 0 <= value <= 1:
                raise ConfigError(f"{where}.{key} {value} must lie between 0 and 1, such as {fields[key]}")
            if value < 0:
                raise ConfigError(f"{where}.{key} {value} must be 0 or more, such as {fields[key]}")
        return cls(**values)

    def compare(
        self,
        student: tuple[Float[Array, "B S K"], Float[Array, "B G N P"]],
        teacher: tuple[Float[Array, "B G K"], Float[Array, "B G N P"]],
        centers: Mapping[str, Float[Array, "_"]],
        hidden: Bool[Array, "B G N"],
        epoch: Scalar,
        delay: int = 0,
    ) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, "..."]]]:
        """Both terms of the loss, weighted, and arrays: the patches' targets and cross-entropies.

        student, teacher: logits of class tokens and patches; the teacher has seen the first G crops of the student.
        delay: epochs before the patches' temperature begins to rise.
        """
        ramp = teacher_temperature(epoch, self.temperature_start, self.temperature, self.warmup_epochs)
        starts = (self.patch_temperature_start, self.patch_temperature)
        patch_ramp = teacher_temperature(epoch, *starts, self.warmup_epochs, delay)
        target = sharpened(teacher[0], centers["center"], ramp)
        patch_target = sharpened(teacher[1], centers["patch_center"], patch_ramp)
        per_patch = patch_cross_entropy(student[1], patch_target, self.student_temperature)
        terms = {
            "cls": self.cls_weight * crop_loss(student[0], target, self.student_temperature),
            "patch": self.patch_weight * mean_per_image(per_patch, hidden),
        }
        return terms, {"target": patch_target, "loss_per_patch": per_patch}

    def means(self, teacher: tuple[Float[Array, "B G K"], Float[Array, "B G N P"]]) -> dict[str, Float[Array, "_"]]:
        """What moves the centres: mean logits over images and crops, of all patches, hidden or not."""
        means = {"center": teacher[0].mean((0, 1)), "patch_center": teacher[1].mean((0, 1, 2))}
        return jax.lax.stop_gradient(means)

    def moved(
        self, centers: Mapping[str, Float[Array, "_"]], means: Mapping[str, Float[Array, "_"]]
    ) -> dict[str, Float[Array, "_"]]:
        """The centres after a batch with these means."""
        momenta = {"center": self.center_momentum, "patch_center": self.patch_center_momentum}
        return {name: centers[name] * m + means[name] * (1.0 - m) for name, m in momenta.items()}
