"""Pixels normalised by a window around each (SimMIM's recipe for Swin V2; Xie et al. CVPR 2023, arXiv 2206.04664)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError

EPSILON = 1e-6


def check_window(window: int, where: str = "method.target_window") -> None:
    """Refuses a window that has no middle, or that holds one pixel only.

    Raises:
        ConfigError: names the value and the nearest valid ones.
    """
    if window < 3 or window % 2 == 0:
        raise ConfigError(f"{where} {window} must be odd and at least 3, such as {max(window // 2 * 2 + 1, 3)}")


def local_statistics(
    images: Float[Array, "B H W C"], window: int
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """Mean and unbiased variance per channel in the window around each pixel, float32.

    Pixels beyond the border do not count: n is the number of true ones. The variance is the mean square minus the
    squared mean, times n / (n - 1), never below 0.
    """
    images = images.astype(jnp.float32)
    rows, columns = (_band(side, window) for side in images.shape[1:3])
    count = np.outer(rows.sum(1), columns.sum(1))[None, :, :, None].astype(np.float32)

    def mean(values):
        return jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, values, precision="highest") / count

    average = mean(images)
    variance = (mean(images * images) - average * average) * (count / (count - 1.0))
    return average, jnp.maximum(variance, 0.0)


def local_norm(images: Float[Array, "B H W C"], window: int) -> Float[Array, "B H W C"]:
    """(pixel - mean) / sqrt(variance + 1e-6) with the statistics of the window around each pixel."""
    mean, variance = local_statistics(images, window)
    return (images - mean) / jnp.sqrt(variance + EPSILON)


def undo_local_norm(
    values: Float[Array, "B H W C"], images: Float[Array, "B H W C"], window: int
) -> Float[Array, "B H W C"]:
    """Undoes `local_norm` with the true statistics of `images`: no model sees them, so say so where it is shown."""
    mean, variance = local_statistics(images, window)
    return values * jnp.sqrt(variance + EPSILON) + mean


def local_norm_flops(image_size: tuple[int, int], channels: int) -> float:
    """FLOPs of the target of one image: two moments, each summed along both axes."""
    return 4.0 * image_size[0] * image_size[1] * channels * (image_size[0] + image_size[1])


def _band(side: int, window: int) -> Float[np.ndarray, "S S"]:
    """1 where two positions lie in one window: sums over windows as matrix products, fast on every device."""
    positions = np.arange(side)
    return (np.abs(positions[:, None] - positions[None]) <= window // 2).astype(np.float32)
