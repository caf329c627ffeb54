"""Images cut into patches and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.nn.init import Init, fan_in_uniform


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


def both_sides(values: Mapping[str, Any], *keys: str, where: str = "model") -> dict[str, Any]:
    """A config section in which a side given once under one of `keys` becomes (height, width).

    Raises:
        ConfigError: more than two sides.
    """
    out = dict(values)
    for key in keys:
        if key in out:
            sides = (out[key],) if isinstance(out[key], int) else tuple(out[key])
            if len(sides) not in (1, 2):
                raise ConfigError(f"{where}.{key} {sides} must be (height, width), or one number for both")
            out[key] = sides * (3 - len(sides))
    return out


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


def pixel_shuffle(
    values: Float[Array, "B N P"], patch_size: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "B H W C"]:
    """An image from patches whose values run over (channel, row, column), CHANNEL slowest: not the `patchify` order."""
    return einops.rearrange(
        values, "b (h w) (c p q) -> b (h p) (w q) c", p=patch_size[0], q=patch_size[1], h=grid[0], w=grid[1]
    )


class PatchEmbed(nn.Module):
    """A linear map of every patch, equal to a convolution with kernel and stride of a patch.

    The kernel is (P, D) with P in the order of `patchify`.
    """

    width: int
    dtype: Dtype = jnp.float32
    start: Init = Init()

    @nn.compact
    def __call__(self, patches: Float[Array, "B N P"]) -> Float[Array, "B N D"]:
        default = fan_in_uniform(patches.shape[-1])  # what the originals' framework gives a convolution
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=self.start.patch_kernel or default,
            bias_init=self.start.patch_bias or default,
            name="proj",
        )(patches)
