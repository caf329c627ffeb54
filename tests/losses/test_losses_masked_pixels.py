"""The error per hidden pixel, with the original's constant."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.losses.masked_pixels import masked_l1


def test_mean_absolute_error_of_the_hidden():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 5, 3)).astype(np.float32)
    hidden = rng.random((3, 4, 5)) < 0.5
    loss, weight = masked_l1(jnp.asarray(prediction), jnp.asarray(target), jnp.asarray(hidden))
    expected = np.abs(prediction - target)[hidden].sum() / (hidden.sum() + 1e-5) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(weight, hidden.sum() + 1e-5)


def test_nothing_hidden_and_infinite_visible_pixels_do_no_harm():
    prediction = jnp.full((1, 2, 2, 1), jnp.inf)
    none = jnp.zeros((1, 2, 2), bool)
    gradient = jax.grad(lambda p: masked_l1(p, jnp.zeros_like(p), none)[0])(prediction)
    assert float(masked_l1(prediction, jnp.zeros_like(prediction), none)[0]) == 0.0
    assert not gradient.any()
