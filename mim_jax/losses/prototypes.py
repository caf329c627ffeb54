"""Soft assignment of embeddings to learned prototypes, and what keeps the prototypes in use (MSN, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, check_keys
from mim_jax.nn.norms import unit

Scalar = float | Float[Array, ""]
STRETCH = 1.25  # MSN's schedules are those of a run so many times as long


def log_assignment(
    embeddings: Float[Array, "*B D"],
    prototypes: Float[Array, "K D"],
    temperature: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Array, "*B K"]:
    """Logarithm of softmax(cos(embedding, prototype) / temperature), float32.

    label_smoothing: so large a share of each prototype's own label is spread evenly over all K.
    """
    directions = unit(embeddings.astype(jnp.float32)), unit(prototypes.astype(jnp.float32))
    cosine = jnp.einsum("...d,kd->...k", *directions, precision="highest")
    log_p = jax.nn.log_softmax(cosine / temperature, axis=-1)
    if not label_smoothing:
        return log_p
    return jnp.logaddexp(log_p + jnp.log1p(-label_smoothing), jnp.log(label_smoothing / len(prototypes)))


def sharpen(log_p: Float[Array, "*B K"], temperature: Scalar) -> Float[Array, "*B K"]:
    """p^(1 / temperature), to sum to one again."""
    return jax.nn.softmax(log_p / temperature, axis=-1)


def sinkhorn(p: Float[Array, "B K"], iterations: int = 3) -> Float[Array, "B K"]:
    """Makes all K prototypes equally frequent in a batch, while every row sums to one (Caron et al. 2020, section 3.1).

    Rows are what is normalised last. Under `jit` sums run over the global batch.
    """
    shares = p / p.sum()
    for _ in range(iterations):
        shares = shares / shares.sum(axis=0, keepdims=True) / p.shape[1]
        shares = shares / shares.sum(axis=1, keepdims=True) / p.shape[0]
    return shares * p.shape[0]


def entropy_gap(log_p: Float[Array, "*B K"]) -> Float[Array, ""]:
    """log K minus the entropy of the mean assignment: 0 where all prototypes are used alike (me-max), else more."""
    log_p = log_p.reshape(-1, log_p.shape[-1])
    mean = jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(log_p))  # a logarithm: the gradient is finite at 0, too
    return jnp.log(log_p.shape[-1]) + jnp.sum(jnp.exp(mean) * mean)


@dataclasses.dataclass(frozen=True)
class PrototypeLoss:
    """The loss of MSN with its settings.

    sharpening, sharpening_end: the temperature of the targets at the first step, and at 1.25 times the last. sinkhorn:
    iterations that balance the targets; 0: none. A weight of 0 leaves a term out.
    """

    temperature: float = 0.1
    sharpening: float = 0.25
    sharpening_end: float = 0.25
    sinkhorn: int = 3
    memax_weight: float = 1.0
    entropy_weight: float = 0.0
    label_smoothing: float = 0.0

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.assignment") -> PrototypeLoss:
        """From a section of a config.

        Raises:
            ConfigError: an unknown key, or an impossible value.
        """
        check_keys(cls, values, where, "a loss of prototypes")
        usual, made = {field.name: field.default for field in dataclasses.fields(cls)}, cls(**values)
        for key in ("temperature", "sharpening", "sharpening_end"):
            if getattr(made, key) <= 0:
                raise ConfigError(f"{where}.{key} {getattr(made, key)} must be positive, such as {usual[key]}")
        for key in ("sinkhorn", "memax_weight", "entropy_weight"):
            if getattr(made, key) < 0:
                raise ConfigError(f"{where}.{key} {getattr(made, key)} must be 0 or more, such as {usual[key]}")
        if not 0 <= made.label_smoothing < 1:
            raise ConfigError(f"{where}.label_smoothing {made.label_smoothing} must be at least 0 and below 1")
        return made

    def __call__(
        self,
        anchors: Float[Array, "B V D"],
        target: Float[Array, "B D"],
        prototypes: Float[Array, "K D"],
        share: Scalar = 0.0,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], dict[str, Any]]:
        """The loss, its terms without their weights, and arrays: every one of V anchors against its image's target.

        share: of the run that is over. Terms: `cross_entropy`, mean over anchors; `memax`, the gap of the mean over all
        anchors; `entropy`, the anchors' mean. Arrays: `log_p` of the anchors, `target` without gradient, and `sharp`,
        the target before it was balanced.
        """
        log_p, log_target = (
            log_assignment(x, prototypes, self.temperature, self.label_smoothing) for x in (anchors, target)
        )
        heat = self.sharpening + (self.sharpening_end - self.sharpening) * share / STRETCH
        sharp = jax.lax.stop_gradient(sharpen(log_target, heat))
        targets = sinkhorn(sharp, self.sinkhorn) if self.sinkhorn else sharp
        terms = {
            "cross_entropy": -jnp.mean(jnp.einsum("bk,bvk->bv", targets, log_p, precision="highest")),
            "memax": entropy_gap(log_p),
            "entropy": -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1)),
        }
        weighted = self.memax_weight * terms["memax"] + self.entropy_weight * terms["entropy"]
        return terms["cross_entropy"] + weighted, terms, dict(log_p=log_p, target=targets, sharp=sharp)


def use_of(targets: Float[Array, "B K"]) -> dict[str, Float[Array, ""]]:
    """How many prototypes are some image's first choice, and the mean share of the first choice."""
    used = jax.nn.one_hot(targets.argmax(-1), targets.shape[1]).max(0).sum()
    return {"prototypes_used": used, "target_certainty": targets.max(-1).mean()}
