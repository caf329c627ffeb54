"""Self-attention on a TPU that never writes its probabilities to memory: a Pallas kernel for short sequences.

Tokens of masked image models are few (50 visible, 197 in the decoder), so the scores of a head fit on the chip whole
and nothing has to be streamed as in FlashAttention (Dao et al. 2022); like there, the backward pass computes the
probabilities again. Queries, keys and values are read as the projection left them, heads side by side, and the output
is written likewise: no transposes, and no padding of narrow heads to 128 lanes in memory.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mim_jax.nn.target import target

# Of the 16 MiB that the compiler gives a kernel in vector memory by default, the rest for the compiler itself.
BUDGET = 12 * 2**20
SCORES = 4  # arrays of scores, float32, that are alive at once in the backward pass


def serves(qkv: Float[Array, "B T E"], heads: int) -> bool:
    """Whether `row_attention` takes this: the program is for TPUs that split the batch alone, and the rows fit."""
    where = target()
    if where is None or not (where.on_tpu and where.whole_activations) or qkv.shape[0] % where.batch_shards:
        return False
    tokens = -(-qkv.shape[1] // 128) * 128
    rows = 2 * 3 * tokens * qkv.shape[2] * qkv.dtype.itemsize  # in, gradient in and out, each twice for prefetching
    return rows + SCORES * tokens * tokens * 4 <= BUDGET


def row_attention(qkv: Float[Array, "B T E"], heads: int) -> Float[Array, "B T D"]:
    """softmax(q k' / sqrt(d)) v per head, heads side by side; E = 3 D holds q, k and v. See `serves`."""
    where = target()
    assert where is not None
    spec = PartitionSpec(where.batch_axes)
    # The compiler does not split kernels by itself.
    split = jax.shard_map(
        lambda x: _attend(x, heads, where.interpret), mesh=where.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return split(qkv)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(qkv, heads, interpret):
    return _call(_forward, heads, interpret, qkv.shape[2] // 3, qkv)


def _backward_pass(heads, interpret, qkv, gradient):
    return (_call(_backward, heads, interpret, qkv.shape[2], qkv, gradient),)


_attend.defvjp(lambda qkv, heads, interpret: (_attend(qkv, heads, interpret), qkv), _backward_pass)


def _call(kernel, heads, interpret, width_out, *rows):
    """The kernel on one image after another."""
    images, tokens, _ = rows[0].shape

    def block(width):
        return pl.BlockSpec((1, tokens, width), lambda image: (image, 0, 0))

    return pl.pallas_call(
        partial(kernel, heads=heads),
        grid=(images,),
        in_specs=[block(row.shape[2]) for row in rows],
        out_specs=block(width_out),
        out_shape=jax.ShapeDtypeStruct((images, tokens, width_out), rows[0].dtype),
        interpret=interpret,
    )(*rows)


def _forward(qkv_ref, out_ref, *, heads):
    for q, k, v, own in _by_head(qkv_ref, heads):
        weights = _weights(q, k)
        out_ref[0, :, own] = _product(weights.astype(v.dtype), v, 1, 0).astype(out_ref.dtype)


def _backward(qkv_ref, gradient_ref, out_ref, *, heads):
    width, narrow = out_ref.shape[2] // 3, out_ref.dtype
    for q, k, v, own in _by_head(qkv_ref, heads):
        weights, gradient = _weights(q, k), gradient_ref[0, :, own]
        by_weight = _product(gradient, v, 1, 1)
        by_logit = weights * (by_weight - (by_weight * weights).sum(axis=1, keepdims=True))
        by_logit = (by_logit * q.shape[1] ** -0.5).astype(narrow)
        of_k, of_v = (slice(own.start + n * width, own.stop + n * width) for n in (1, 2))
        out_ref[0, :, own] = _product(by_logit, k, 1, 0).astype(narrow)
        out_ref[0, :, of_k] = _product(by_logit, q, 0, 0).astype(narrow)
        out_ref[0, :, of_v] = _product(weights.astype(narrow), gradient, 0, 0).astype(narrow)


def _by_head(qkv_ref, heads):
    """(q, k, v, place in the output) of every head."""
    width = qkv_ref.shape[2] // 3
    size = width // heads
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        q, k, v = (qkv_ref[0, :, n * width + own.start : n * width + own.stop] for n in range(3))
        yield q, k, v, own


def _weights(q, k):
    logits = _product(q, k, 1, 1) * q.shape[1] ** -0.5
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _product(a, b, axis_of_a, axis_of_b):
    return jax.lax.dot_general(a, b, (((axis_of_a,), (axis_of_b,)), ((), ())), preferred_element_type=jnp.float32)
