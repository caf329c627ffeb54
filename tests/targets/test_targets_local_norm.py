"""Local normalisation against one window at a time, and against the framework that the original uses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mim_jax.errors import ConfigError
from mim_jax.targets.local_norm import check_window, local_norm, undo_local_norm


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 9, 14, 2)) * jnp.asarray([2.0, 0.5]) + jnp.asarray([3.0, -1.0])


@pytest.mark.parametrize("window", [3, 7, 47])  # inside, cut by the border, larger than the image
def test_every_window_for_itself(images, window):
    found, half = np.asarray(local_norm(images, window)), window // 2
    images = np.asarray(images)
    for row, column in [(0, 0), (4, 7), (8, 13), (1, 12), (8, 3)]:
        inside = images[:, max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        inside = inside.reshape(2, -1, 2).astype(np.float64)
        expected = (images[:, row, column] - inside.mean(1)) / np.sqrt(inside.var(1, ddof=1) + 1e-6)
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-4, atol=1e-5)


def test_flat_images_become_zero_and_come_back():
    flat = jnp.full((1, 8, 8, 3), 0.7)
    np.testing.assert_allclose(local_norm(flat, 5), 0.0, atol=1e-3)
    np.testing.assert_allclose(undo_local_norm(local_norm(flat, 5), flat, 5), flat, rtol=1e-5)


def test_undo_is_the_inverse(images):
    np.testing.assert_allclose(undo_local_norm(local_norm(images, 5), images, 5), images, rtol=1e-4, atol=1e-5)


def test_average_pooling_of_another_framework(images):
    torch = pytest.importorskip("torch")
    x = torch.tensor(np.moveaxis(np.array(images), -1, 1))

    def pool(values, pad_counts):
        return torch.nn.functional.avg_pool2d(values, 7, 1, 3, count_include_pad=pad_counts)

    count = pool(torch.ones_like(x), True) * 49
    mean = pool(x, False)
    variance = ((pool(x * x, False) - mean**2) * count / (count - 1)).clamp(min=0)
    expected = np.moveaxis(((x - mean) / (variance + 1e-6).sqrt()).numpy(), 1, -1)
    np.testing.assert_allclose(local_norm(images, 7), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window, hint", [(4, "such as 5"), (1, "such as 3"), (-3, "such as 3")])
def test_windows_without_a_middle_are_refused(window, hint):
    with pytest.raises(ConfigError, match=f"target_window {window} must be odd.*{hint}"):
        check_window(window)
