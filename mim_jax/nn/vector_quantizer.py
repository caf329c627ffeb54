"""Vector quantisation: the nearest code, and codes that follow the vectors assigned to them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

DISTANCES = ("plain", "cosine")
Number = int | float | Float[Array, ""] | Int[Array, ""]


class Codebook(struct.PyTreeNode):
    """Codes as moving averages (van den Oord et al. 2017, appendix A.1).

    vectors: (V, D); counts: (V,) moving average of how many vectors a batch assigns to each code; sums: (V, D) of the
    sums of these vectors. Float32.
    """

    vectors: Any
    counts: Any
    sums: Any


def start_codebook(vectors: Float[Array, "V D"]) -> Codebook:
    """A codebook that begins at `vectors`, each with one vector assigned."""
    return Codebook(vectors, jnp.ones(len(vectors)), jnp.array(vectors, copy=True))


def unit(vectors: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Vectors of length 1; 0 stays 0."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(-1, keepdims=True), 1e-12))


def nearest_code(vectors: Float[Array, "*B D"], codes: Float[Array, "V D"]) -> Int[Array, "*B"]:
    """Index of the code with the smallest Euclidean distance; for 'cosine' give both as unit vectors.

    Computed at full float32, because a rounded product changes the winner.
    """
    product = jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.square(codes).sum(-1) - 2.0 * product, axis=-1).astype(jnp.int32)


def straight_through(vectors: Float[Array, "*B D"], quantised: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The quantised vectors, with the gradient passed to the vectors as if nothing had been done."""
    return vectors + jax.lax.stop_gradient(quantised - vectors)


def assignments(
    vectors: Float[Array, "B N D"], tokens: Int[Array, "B N"], vocabulary: int
) -> tuple[Float[Array, "V"], Float[Array, "V D"]]:
    """Per image, on average: how many vectors each code was given, and their sum. Means over B, as `carry` needs."""
    chosen = jax.nn.one_hot(tokens, vocabulary, dtype=jnp.float32)
    total = jnp.einsum("bnv,bnd->vd", chosen, vectors, precision=jax.lax.Precision.HIGHEST)
    return chosen.sum((0, 1)) / len(tokens), total / len(tokens)


def move_codebook(
    book: Codebook,
    counts: Float[Array, "V"],
    sums: Float[Array, "V D"],
    decay: Number,
    epsilon: float = 1e-5,
    cosine: bool = False,
) -> Codebook:
    """One step of the moving averages; `counts` and `sums` are those of the whole batch.

    counts <- decay counts + (1 - decay) n, sums likewise, vectors <- sums / counts with Laplace smoothing `epsilon` of
    the counts (van den Oord et al. 2017, appendix A.1); cosine: vectors are brought back to length 1.
    """
    counts = decay * book.counts + (1.0 - decay) * counts
    sums = decay * book.sums + (1.0 - decay) * sums
    total = counts.sum()
    smoothed = (counts + epsilon) / (total + len(counts) * epsilon) * total
    vectors = sums / smoothed[:, None]
    return Codebook(unit(vectors) if cosine else vectors, counts, sums)


def split_codes(book: Codebook, share: float, spread: Number, step: Number, cosine: bool = False) -> Codebook:
    """Gives every code that is hardly used half of the vectors of a code that is much used.

    A code is dead where its count is below `share` of the mean count. The dead are paired with the most used, in
    order; each takes half of its partner's count and a place beside it, `spread` away (in each dimension, normal).
    A function of the codebook and the step alone, so it is the same on any number of devices (splitting as in Linde,
    Buzo and Gray, 1980, instead of drawing vectors of the batch).
    """
    vocabulary, width = book.vectors.shape
    order = jnp.argsort(-book.counts, stable=True)
    ranked = jax.tree.map(lambda leaf: leaf[order], book)
    mean = ranked.counts.mean()
    half = vocabulary // 2
    # Entry k from the top is the partner of entry k from the end.
    rich, poor = jax.tree.map(lambda x: x[:half], ranked), jax.tree.map(lambda x: x[::-1][:half], ranked)
    split = ((poor.counts < share * mean) & (rich.counts > mean))[:, None]
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (half, width))
    born = rich.vectors + spread * noise
    born = unit(born) if cosine else born
    counts = rich.counts / 2
    new_rich = Codebook(rich.vectors, counts, rich.sums / 2)
    new_poor = Codebook(born, counts, born * counts[:, None])

    def choose(new, old):
        return jax.tree.map(lambda a, b: jnp.where(split.reshape(-1, *(1,) * (b.ndim - 1)), a, b), new, old)

    rich, poor = choose(new_rich, rich), choose(new_poor, poor)
    back = jnp.argsort(order)
    middle = jax.tree.map(lambda x: x[half : vocabulary - half], ranked)
    joined = jax.tree.map(lambda a, b, c: jnp.concatenate([a, b, c[::-1]]), rich, middle, poor)
    return jax.tree.map(lambda leaf: leaf[back], joined)


def usage(counts: Float[Array, "V"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(share of codes that occur at all, perplexity: the number of codes that would be equally surprising)."""
    share = counts / jnp.maximum(counts.sum(), 1e-12)
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-12))).sum()
    return (counts > 0).mean(), jnp.exp(entropy)


def follow_codes(
    codes: Float[Array, "V D"], counts: Float[Array, "V"], sums: Float[Array, "V D"], decay: Number
) -> Float[Array, "V D"]:
    """Unit codes a step nearer to the mean directions of the vectors they were given (BEiT v2's released code).

    code <- unit(decay code + (1 - decay) unit(sums / counts)); a code that was given none keeps its place.
    """
    means = unit(sums / jnp.maximum(counts, 1.0)[:, None])
    return unit(decay * codes + (1.0 - decay) * jnp.where(counts[:, None] > 0, means, codes))
