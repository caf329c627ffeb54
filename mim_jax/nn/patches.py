"""Images cut into patches and put together again."""

from __future__ import annotations

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, PRNGKeyArray

from mim_jax.errors import ConfigError


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int], where: str = "model") -> tuple[int, int]:
    """The grid (h, w) of patches.

    Raises:
        ConfigError: the patch does not divide the image.
    """
    for side, size, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if patch < 1 or size % patch:
            valid = [p for p in range(1, size + 1) if size % p == 0]
            closest = min(valid, key=lambda p: abs(p - patch))
            raise ConfigError(
                f"{where}.patch_size: a patch of {patch} does not divide the image {side} of {size}; "
                f"the nearest patch that does is {closest}"
            )
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def patchify(images: Float[Array, "B H W C"], patch_size: tuple[int, int]) -> Float[Array, "B N P"]:
    """Patches in raster order; the values of a patch run over (row, column, channel), channel fastest."""
    return einops.rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=patch_size[0], q=patch_size[1])


def unpatchify(
    patches: Float[Array, "B N P"], patch_size: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "B H W C"]:
    """Inverse of `patchify`."""
    return einops.rearrange(
        patches, "b (h w) (p q c) -> b (h p) (w q) c", p=patch_size[0], q=patch_size[1], h=grid[0], w=grid[1]
    )


def torch_default_bias(fan_in: int):
    """Uniform in +-1/sqrt(fan_in), where the original leaves a layer's bias at its framework's default."""

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class PatchEmbed(nn.Module):
    """A linear map of every patch, equal to a convolution with kernel and stride of a patch.

    The kernel is (P, D) with P in the order of `patchify`; Xavier-uniform on that matrix, bias at the convolution's
    framework default (MAE card, init).
    """

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, patches: Float[Array, "B N P"]) -> Float[Array, "B N D"]:
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=torch_default_bias(patches.shape[-1]),
            name="proj",
        )(patches)
