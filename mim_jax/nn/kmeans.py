"""k-means on the unit sphere, for codebooks that start at the vectors of a first batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.nn.vector_quantizer import unit


def start_ids(key: PRNGKeyArray, vectors: int, count: int) -> Int[Array, "V"]:
    """`count` of so many vectors: without replacement, or with it where there are fewer vectors."""
    if vectors >= count:
        return jax.random.permutation(key, vectors)[:count]
    return jax.random.randint(key, (count,), 0, vectors)


def spherical_kmeans(
    vectors: Float[Array, "N D"], starts: Int[Array, "V"], iterations: int = 10
) -> Float[Array, "V D"]:
    """Centres of length 1 after so many rounds; `starts` says which unit vectors they begin as.

    A centre to which no vector belongs stays where it is (BEiT v2's released code).
    """

    def move(_, centres: Float[Array, "V D"]) -> Float[Array, "V D"]:
        nearest = jnp.argmax(jnp.matmul(vectors, centres.T, precision=jax.lax.Precision.HIGHEST), axis=-1)
        counts = jnp.zeros(len(centres)).at[nearest].add(1.0)
        sums = jnp.zeros_like(centres).at[nearest].add(vectors)
        return jnp.where(counts[:, None] > 0, unit(sums / jnp.maximum(counts, 1.0)[:, None]), centres)

    return jax.lax.fori_loop(0, iterations, move, vectors[starts])
