"""The parts of a discrete VAE's objective: relaxed samples, and the distance of their distribution from uniform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gumbel_softmax(
    logits: Float[Array, "*B V"], noise: Float[Array, "*B V"], temperature: float | Float[Array, ""], hard: bool = False
) -> Float[Array, "*B V"]:
    """Relaxed samples of a categorical distribution (Jang, Gu, Poole 2017; Maddison, Mnih, Teh 2017), float32.

    noise: standard Gumbel. hard: one-hot forward, the relaxed sample's gradient backward (straight-through).
    """
    soft = jax.nn.softmax((logits.astype(jnp.float32) + noise) / temperature, axis=-1)
    if not hard:
        return soft
    chosen = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1])
    return soft + jax.lax.stop_gradient(chosen - soft)


def uniform_divergence(logits: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """KL divergence of softmax(logits) from the uniform distribution, in nats, float32: log V - entropy."""
    log = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return (jnp.exp(log) * log).sum(-1) + jnp.log(float(logits.shape[-1]))
