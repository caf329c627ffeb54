"""Sparse convolutional networks on dense arrays: whatever a layer writes outside the active cells becomes zero.

A submanifold sparse convolution computes at active positions only and reads inactive ones as zero. Dense layers whose
every output is masked compute the same numbers at the price of a dense network (SparK, section 3.1 and its code).
`active` is the map of cells (B, h, w), True where a cell is visible; None makes every layer an ordinary dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from mim_jax.nn.depthwise import depthwise
from mim_jax.nn.ema import ema_update
from mim_jax.nn.init import ZEROS, Initializer

ONES = nn.initializers.ones
KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
MOMENTUM = 0.1  # share of the new batch in the running statistics of every batch norm


def spread(active: Bool[Array, "B h w"], size: tuple[int, int]) -> Bool[Array, "B H W 1"]:
    """The map of cells at another resolution, by repetition; `size` is a multiple of the map's."""
    rows = jnp.repeat(active, size[0] // active.shape[1], axis=1)
    return jnp.repeat(rows, size[1] // active.shape[2], axis=2)[..., None]


def keep(x: Float[Array, "B H W C"], active: Bool[Array, "B h w"] | None) -> Float[Array, "B H W C"]:
    """x where active, 0 elsewhere. Selected, not multiplied: a hidden place may hold anything, infinities too."""
    if active is None:
        return x
    return jnp.where(spread(active, (x.shape[1], x.shape[2])), x, jnp.zeros((), x.dtype))


def conv(
    name: str,
    width: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dtype: Dtype = jnp.float32,
    kernel_init: Initializer = KAIMING,
    bias_init: Initializer = ZEROS,
) -> nn.Conv:
    """A convolution with PyTorch's padding: half an odd kernel; none for an even one, which cuts whole patches."""
    pad = padding(kernel)
    return nn.Conv(
        width,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=depthwise if groups == width and stride == 1 and groups > 1 else None,
        name=name,
    )


def padding(kernel: int) -> int:
    """Rows of zeros on each side."""
    return kernel // 2 if kernel % 2 else 0


class BatchNorm(nn.Module):
    """Batch normalisation over the active positions of the whole batch; zero elsewhere. Statistics in float32.

    running: normalise by the stored statistics instead of the batch's.

    The collection `batch_stats` holds running statistics on entry. Where it is mutable, it holds on return the mean
    and the UNBIASED variance of this batch, for the caller to blend (`MOMENTUM`); the batch itself is normalised with
    the biased variance. Under `jit` the sums run over the global batch however it is spread over devices.
    """

    running: bool = False
    dtype: Dtype = jnp.float32
    epsilon: float = 1e-5
    scale_init: Initializer = ONES

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], active: Bool[Array, "B h w"] | None = None
    ) -> Float[Array, "B H W C"]:
        width = (x.shape[-1],)
        scale, bias = self.param("scale", self.scale_init, width), self.param("bias", ZEROS, width)
        stored_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        stored_variance = self.variable("batch_stats", "var", jnp.ones, width)
        values = x.astype(jnp.float32)
        if self.running:
            mean, variance = stored_mean.value, stored_variance.value
        else:
            mean, variance, count = active_moments(values, active)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                stored_mean.value = mean
                stored_variance.value = variance * (count / jnp.maximum(count - 1.0, 1.0))
        y = (values - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return keep(y.astype(self.dtype), active)


def blended(statistics: Any, moments: Sequence[Any]) -> Any:
    """Running statistics after batches with these moments, in turn."""
    for batch in moments:
        statistics = ema_update(statistics, batch, 1.0 - MOMENTUM)
    return statistics


def active_moments(
    x: Float[Array, "B H W C"], active: Bool[Array, "B h w"] | None
) -> tuple[Float[Array, "C"], Float[Array, "C"], Float[Array, ""]]:
    """Mean and biased variance per channel over the active positions of the batch, and their number; two passes."""
    axes = (0, 1, 2)
    if active is None:
        count = jnp.asarray(float(x.shape[0] * x.shape[1] * x.shape[2]))
    else:
        per_cell = (x.shape[1] // active.shape[1]) * (x.shape[2] // active.shape[2])
        count = jnp.sum(active.astype(jnp.float32)) * per_cell
    safe = jnp.maximum(count, 1.0)
    mean = jnp.sum(keep(x, active), axes) / safe
    return mean, jnp.sum(jnp.square(keep(x - mean, active)), axes) / safe, count
