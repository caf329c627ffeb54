"""Standardised features of a teacher."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.targets.features import normalize_features


def test_biased_variance_epsilon_and_no_gradient():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)) * 1e-2 + 5
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normalize_features(jnp.asarray(x, jnp.float32)), expected, rtol=1e-3, atol=1e-3)
    assert normalize_features(jnp.ones((1, 4), jnp.bfloat16)).dtype == jnp.float32
    assert not jax.grad(lambda x: normalize_features(x).sum())(jnp.arange(4.0)).any()


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)
    expected = torch.nn.functional.layer_norm(torch.tensor(x), (16,)).numpy()
    np.testing.assert_allclose(normalize_features(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
