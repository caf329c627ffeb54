"""Smooth L1 by hand and against PyTorch; its mean over images."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.losses.smooth_l1 import mean_per_image, smooth_l1


def test_by_hand():
    prediction, target = jnp.array([[0.5, -2.0, 1.0, 0.0]]), jnp.zeros((1, 4))
    np.testing.assert_allclose(smooth_l1(prediction, target), [(0.125 + 1.5 + 0.5 + 0.0) / 4])
    np.testing.assert_allclose(smooth_l1(prediction, target, beta=2.0), [(0.0625 + 1.0 + 0.25 + 0.0) / 4])


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_equals_pytorch(beta):
    torch = pytest.importorskip("torch")
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)
    expected = torch.nn.functional.smooth_l1_loss(torch.tensor(a), torch.tensor(b), beta=beta, reduction="none")
    np.testing.assert_allclose(smooth_l1(jnp.asarray(a), jnp.asarray(b), beta), expected.numpy().mean(-1), rtol=1e-5)


def test_images_weigh_alike_and_the_rest_may_be_anything():
    errors = jnp.array([[1.0, 2.0, jnp.inf], [6.0, jnp.nan, jnp.nan]])
    counts = jnp.array([[True, True, False], [True, False, False]])
    np.testing.assert_allclose(mean_per_image(errors, counts), (1.5 + 6.0) / 2)
