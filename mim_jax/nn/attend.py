"""Scaled dot-product attention on heads (Vaswani et al. 2017, section 3.2.1), with a backward pass written by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.nn.materialize import written_down


def attend(
    q: Float[Array, "B K Q d"],
    k: Float[Array, "B K T d"],
    v: Float[Array, "B K T d"],
    bias: Float[Array, "#B #K #Q T"] | None = None,
) -> Float[Array, "B K Q d"]:
    """softmax(q k' / sqrt(d) + bias) v per head; logits and softmax in float32.

    Head-major on purpose: batched matrix products with contiguous operands and one softmax in place, which XLA
    compiles to far fewer passes on a CPU than the generic attention of jax.nn, and to the same fusion on a TPU.
    """
    return _attend(q, k, v, bias)


def attention_weights(
    q: Float[Array, "B K Q d"], k: Float[Array, "B K T d"], bias: Float[Array, "#B #K #Q T"] | None = None
) -> Float[Array, "B K Q T"]:
    """softmax(q k' / sqrt(d) + bias) per head, float32; rows are queries."""
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("bkqd,bktd->bkqt", q * scale, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    return jax.nn.softmax(logits, axis=-1)


def padding_bias(valid: Bool[Array, "B T"]) -> Float[Array, "B 1 1 T"]:
    """Bias that keeps every query from keys that only fill a sequence up: their share is exactly 0.

    Every row must hold a valid key. The lowest finite number, because a row of infinities would give NaN.
    """
    return jnp.where(valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, None]


@jax.custom_vjp
def _attend(q, k, v, bias):
    return _forward(q, k, v, bias)[0]


def _forward(q, k, v, bias):
    weights = attention_weights(q, k, bias)
    return jnp.einsum("bkqt,bktd->bkqd", weights.astype(v.dtype), v), (q, k, v, bias, weights)


def _backward(kept, gradient):
    """Derivatives as in the paper's products; what multiplies matrices is in the type of q, k and v.

    Products over the queries have the small operand transposed, written down, and in front: a CPU's matrix products
    then run over contiguous rows, three times as fast.
    """
    q, k, v, bias, weights = kept
    scale, narrow = q.shape[-1] ** -0.5, weights.astype(v.dtype)
    by_weight = jnp.einsum("bkqd,bktd->bkqt", gradient, v).astype(jnp.float32)
    logits = weights * (by_weight - (by_weight * weights).sum(axis=-1, keepdims=True))
    by_logit = written_down(logits.astype(q.dtype))
    by_q = jnp.einsum("bkqt,bktd->bkqd", by_logit, k * scale)
    by_k = _transposed(jnp.einsum("bkdq,bkqt->bkdt", written_down(_transposed(q * scale)), by_logit))
    by_v = _transposed(jnp.einsum("bkdq,bkqt->bkdt", written_down(_transposed(gradient)), narrow))
    return by_q, by_k, by_v, None if bias is None else _summed(logits, bias).astype(bias.dtype)


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)


def _summed(gradient, like):
    """The gradient of something that was broadcast from the shape of `like`."""
    axes = tuple(axis for axis, size in enumerate(like.shape) if size != gradient.shape[axis])
    return gradient.sum(axis=axes, keepdims=True)


_attend.defvjp(_forward, _backward)
