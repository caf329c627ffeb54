"""Vector quantisation against numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.nn.vector_quantizer import (
    Codebook,
    assignments,
    move_codebook,
    nearest_code,
    split_codes,
    start_codebook,
    straight_through,
    unit,
    usage,
)

RNG = np.random.default_rng(0)
CODES = RNG.normal(size=(7, 3)).astype(np.float32)
VECTORS = RNG.normal(size=(4, 5, 3)).astype(np.float32)


def brute_force(vectors, codes):
    return ((vectors[..., None, :] - codes) ** 2).sum(-1).argmin(-1)


def test_nearest_code_is_the_nearest():
    tokens = nearest_code(jnp.asarray(VECTORS), jnp.asarray(CODES))
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, brute_force(VECTORS, CODES))
    angles = np.einsum("bnd,vd->bnv", VECTORS, CODES) / np.linalg.norm(CODES, axis=-1)
    np.testing.assert_array_equal(nearest_code(unit(jnp.asarray(VECTORS)), unit(jnp.asarray(CODES))), angles.argmax(-1))


def test_unit_vectors_have_length_1_and_zero_stays():
    np.testing.assert_allclose(np.linalg.norm(unit(jnp.asarray(VECTORS)), axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(unit(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_straight_through_gives_the_codes_and_the_vectors_gradient():
    quantised = jnp.asarray(CODES[brute_force(VECTORS, CODES)])
    np.testing.assert_allclose(straight_through(jnp.asarray(VECTORS), quantised), quantised, rtol=1e-5, atol=1e-6)
    weights = RNG.normal(size=VECTORS.shape).astype(np.float32)
    gradient = jax.grad(lambda v: (straight_through(v, quantised) * weights).sum())(jnp.asarray(VECTORS))
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)


@pytest.mark.parametrize("cosine", [False, True])
def test_moving_codebook_is_the_published_rule(cosine, decay=0.9, epsilon=1e-5):
    vectors = VECTORS / np.linalg.norm(VECTORS, axis=-1, keepdims=True) if cosine else VECTORS
    book = start_codebook(unit(jnp.asarray(CODES)) if cosine else jnp.asarray(CODES))
    counts, sums, codes = np.ones(7), np.array(book.sums, np.float64), np.array(book.vectors)
    for _ in range(3):
        tokens = nearest_code(jnp.asarray(vectors), book.vectors)
        expected = brute_force(vectors, codes).ravel()
        np.testing.assert_array_equal(np.ravel(tokens), expected)
        per_image, total = assignments(jnp.asarray(vectors), tokens, 7)
        book = move_codebook(book, per_image * 4, total * 4, decay, epsilon, cosine)
        # Transcription of the rule, with counts and sums of the whole batch of 4 images.
        n, m = np.zeros(7), np.zeros((7, 3))
        for token, vector in zip(expected, vectors.reshape(-1, 3), strict=True):
            n[token] += 1
            m[token] += vector
        counts, sums = decay * counts + (1 - decay) * n, decay * sums + (1 - decay) * m
        smoothed = (counts + epsilon) / (counts.sum() + 7 * epsilon) * counts.sum()
        codes = sums / smoothed[:, None]
        codes = codes / np.linalg.norm(codes, axis=-1, keepdims=True) if cosine else codes
        np.testing.assert_allclose(book.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(book.vectors, codes, rtol=1e-4, atol=1e-6)


def test_dead_codes_halve_the_most_used():
    counts = jnp.asarray([40.0, 0.0, 9.0, 11.0, 20.0, 0.1, 10.0])
    book = Codebook(jnp.asarray(CODES), counts, jnp.asarray(CODES) * counts[:, None])
    new = split_codes(book, share=0.2, spread=1e-3, step=5)
    # Of the two dead codes the least used takes half of the most used, the other half of the next.
    np.testing.assert_allclose(new.counts, [20.0, 20.0, 9.0, 11.0, 10.0, 10.0, 10.0])
    np.testing.assert_allclose(new.vectors[1], CODES[0], atol=1e-2)
    np.testing.assert_allclose(new.vectors[5], CODES[4], atol=1e-2)
    assert (new.vectors[1] != CODES[0]).any()
    for kept in (0, 2, 3, 4, 6):
        np.testing.assert_array_equal(new.vectors[kept], CODES[kept])
    np.testing.assert_allclose(new.counts.sum(), counts.sum(), atol=0.2)
    np.testing.assert_allclose(new.sums[0] + new.sums[4], 0.5 * (book.sums[0] + book.sums[4]), rtol=1e-6)
    again = split_codes(book, share=0.2, spread=1e-3, step=5)
    np.testing.assert_array_equal(new.vectors, again.vectors)


def test_an_even_codebook_is_left_alone():
    book = start_codebook(jnp.asarray(CODES))
    for old, new in zip(jax.tree.leaves(book), jax.tree.leaves(split_codes(book, 0.2, 1.0, 0)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_usage_counts_codes_and_their_evenness():
    used, perplexity = usage(jnp.asarray([2.0, 2.0, 0.0, 0.0]))
    assert float(used) == 0.5
    np.testing.assert_allclose(perplexity, 2.0, rtol=1e-6)
