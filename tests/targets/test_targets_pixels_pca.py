"""Targets against numpy and scikit-learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.targets import pca, pixels


def patches(seed=0, shape=(3, 5, 12)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 2 + 1


def test_standardize_uses_the_unbiased_variance():
    x = patches()
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, ddof=1, keepdims=True)
    target = pixels.standardize(jnp.asarray(x))
    np.testing.assert_allclose(target, (x - mean) / np.sqrt(variance + 1e-6), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pixels.unstandardize(target, jnp.asarray(x)), x, rtol=1e-4, atol=1e-4)


def test_a_flat_patch_has_a_finite_target():
    assert not np.asarray(pixels.standardize(jnp.full((1, 1, 8), 3.0))).any()


def test_patch_basis_against_scikit_learn():
    x = patches(shape=(4, 50, 6)) @ np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    basis = pca.fit_patch_basis(jnp.asarray(x), 3)
    reference = PCA(3).fit(x.reshape(-1, 6))
    np.testing.assert_allclose(np.abs(basis.components.T @ reference.components_.T), np.eye(3), atol=2e-3)
    both = pca.unproject(pca.project(jnp.asarray(x), basis), basis)
    expected = reference.inverse_transform(reference.transform(x.reshape(-1, 6))).reshape(x.shape)
    np.testing.assert_allclose(both, expected, atol=2e-2)


def test_loss_counts_hidden_patches_only():
    prediction, target = patches(1), patches(2)
    hidden = np.random.default_rng(3).random((3, 5)) < 0.5
    per_patch = squared_error(jnp.asarray(prediction), jnp.asarray(target))
    np.testing.assert_allclose(per_patch, ((prediction - target) ** 2).mean(-1), rtol=1e-5)
    loss, count = masked_mean(per_patch, jnp.asarray(hidden))
    np.testing.assert_allclose(loss, ((prediction - target) ** 2).mean(-1)[hidden].mean(), rtol=1e-5)
    assert count == hidden.sum()


def test_infinities_outside_the_loss_do_no_harm():
    per_patch = jnp.asarray([[1.0, jnp.inf, jnp.nan]])
    hidden = jnp.asarray([[True, False, False]])
    loss, gradient = jax.value_and_grad(lambda p: masked_mean(p, hidden)[0])(per_patch)
    assert loss == 1.0
    np.testing.assert_array_equal(gradient, [[1, 0, 0]])
    assert masked_mean(per_patch, jnp.zeros((1, 3), bool))[0] == 0
