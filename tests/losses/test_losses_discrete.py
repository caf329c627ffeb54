"""The parts of a discrete VAE's objective against numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.losses.discrete import gumbel_softmax, uniform_divergence

RNG = np.random.default_rng(1)
LOGITS = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)
NOISE = jnp.asarray(RNG.gumbel(size=(2, 3, 5)), jnp.float32)


def softmax(x):
    x = np.asarray(x)
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_relaxed_samples():
    expected = softmax((LOGITS + NOISE) / 0.7)
    np.testing.assert_allclose(gumbel_softmax(LOGITS, NOISE, 0.7), expected, rtol=1e-5)


def test_hard_samples_are_one_hot_with_the_relaxed_gradient():
    weights = RNG.normal(size=LOGITS.shape).astype(np.float32)
    chosen = np.eye(5)[(LOGITS + NOISE).argmax(-1)]
    np.testing.assert_allclose(gumbel_softmax(LOGITS, NOISE, 0.7, hard=True), chosen, atol=1e-6)
    hard, soft = (
        jax.grad(lambda x, hard=hard: (gumbel_softmax(x, NOISE, 0.7, hard) * weights).sum())(LOGITS)
        for hard in (True, False)
    )
    np.testing.assert_allclose(hard, soft, rtol=1e-6)


def test_samples_follow_the_distribution(draws=20_000):
    noise = jax.random.gumbel(jax.random.key(0), (draws, 5))
    chosen = gumbel_softmax(jnp.broadcast_to(LOGITS[0, 0], (draws, 5)), noise, 0.1, hard=True)
    np.testing.assert_allclose(chosen.mean(0), softmax(LOGITS[0, 0]), atol=0.02)


def test_divergence_from_uniform():
    p = softmax(LOGITS)
    np.testing.assert_allclose(uniform_divergence(LOGITS), (p * np.log(p * 5)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(uniform_divergence(jnp.ones((2, 4))), 0.0, atol=1e-6)
    certain = jnp.array([[1e4, 0.0, 0.0]])
    np.testing.assert_allclose(uniform_divergence(certain), np.log(3), rtol=1e-6)
