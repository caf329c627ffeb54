"""Block-wise masking (BEiT, algorithm 1) as a pure function of a key."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mim_jax.masking.mask import Mask, mask_from_hidden

TRIES = 10  # failed tries in a row after which BEiT gives up
LIMIT = 20_000  # tries after which an exact mask is completed patch by patch


def block_hidden(
    key: PRNGKeyArray,
    batch: int,
    grid: tuple[int, int],
    count: int | Float[Array, "B"],
    *,
    min_block: int = 16,
    min_aspect: float = 0.3,
    exact: bool = False,
) -> Bool[Array, "B N"]:
    """Hides at most `count` patches per image in rectangles, raster order.

    A rectangle has area uniform in (min_block, patches left), log-uniform aspect, sides rounded half to even and
    strictly smaller than the grid; it is accepted if it hides at least one new patch and at most those left.
    exact: go on until exactly `count` are hidden (CAE); otherwise stop after ten failures in a row (BEiT), so the
    number varies from image to image. count: may differ per image, and need not be whole unless `exact` (iBOT).
    """
    return block_trace(key, batch, grid, count, min_block=min_block, min_aspect=min_aspect, exact=exact)[0]


def block_trace(
    key: PRNGKeyArray,
    batch: int,
    grid: tuple[int, int],
    count: int | Float[Array, "B"],
    *,
    min_block: int = 16,
    min_aspect: float = 0.3,
    exact: bool = False,
) -> tuple[Bool[Array, "B N"], Int[Array, "B"], Int[Array, "B"]]:
    """`block_hidden`, with the number of accepted rectangles and the patches of the first one."""
    keys = jax.random.split(key, batch)
    counts = jnp.broadcast_to(jnp.asarray(count), (batch,))
    hidden, blocks, first = jax.vmap(lambda k, n: _one(k, grid, n, min_block, min_aspect, exact))(keys, counts)
    return hidden.reshape(batch, -1), blocks, first


def block_mask(key: PRNGKeyArray, batch: int, grid: tuple[int, int], count: int, **kwargs) -> Mask:
    """Exactly `count` hidden patches per image in blocks; index lists in raster order. Arguments of `block_hidden`."""
    return mask_from_hidden(block_hidden(key, batch, grid, count, exact=True, **kwargs), count, grid)


def completed(key: PRNGKeyArray, hidden: Bool[Array, "B N"], count: int) -> Bool[Array, "B N"]:
    """Exactly `count` hidden patches per image: single ones, anywhere, are hidden or shown until it is so (BEiT v2)."""
    order = jax.random.uniform(key, hidden.shape) - hidden
    return jnp.argsort(jnp.argsort(order, axis=1), axis=1) < count


def _one(key, grid, count, min_block, min_aspect, exact) -> tuple[Bool[Array, "h w"], Int[Array, ""], Int[Array, ""]]:
    height, width = grid
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None]

    def propose(key, left):
        area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
        area = min_block + jax.random.uniform(area_key) * (left - min_block)
        log_aspect = jax.random.uniform(aspect_key, minval=math.log(min_aspect), maxval=-math.log(min_aspect))
        h = jnp.round(jnp.sqrt(area * jnp.exp(log_aspect))).astype(int)
        w = jnp.round(jnp.sqrt(area / jnp.exp(log_aspect))).astype(int)
        fits = (h < height) & (w < width)
        top = jax.random.randint(top_key, (), 0, jnp.maximum(height - h, 0) + 1)
        first = jax.random.randint(left_key, (), 0, jnp.maximum(width - w, 0) + 1)
        return fits & (rows >= top) & (rows < top + h) & (columns >= first) & (columns < first + w)

    def body(state):
        hidden, tries, failures, blocks, first = state
        left = count - hidden.sum()
        block = propose(jax.random.fold_in(key, tries), left)
        new = (block & ~hidden).sum()
        accept = (new > 0) & (new <= left)
        first = jnp.where(accept & (blocks == 0), new, first)
        hidden, failures = jnp.where(accept, hidden | block, hidden), jnp.where(accept, 0, failures + 1)
        return hidden, tries + 1, failures, blocks + accept, first

    def unfinished(state):
        hidden, tries, failures, *_ = state
        return (hidden.sum() < count) & (tries < LIMIT if exact else failures < TRIES)

    start = (jnp.zeros(grid, bool), *[jnp.zeros((), int)] * 4)
    hidden, _, _, blocks, first = jax.lax.while_loop(unfinished, body, start)
    if not exact:
        return hidden, blocks, first
    # Completes the rare mask that ran into the limit, in an order that puts hidden patches first.
    order = jax.random.uniform(jax.random.fold_in(key, LIMIT), grid) + jnp.where(hidden, -1.0, 0.0)
    rank = jnp.argsort(jnp.argsort(order.reshape(-1))).reshape(grid)
    return rank < count, blocks, first
