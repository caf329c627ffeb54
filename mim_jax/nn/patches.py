"""Images cut into patches and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float, Shaped

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


def patchify(images: Shaped[Array, "B H W C"], patch_size: tuple[int, int]) -> Shaped[Array, "B N P"]:
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


def resize_patch_kernel(
    kernel: Float[np.ndarray, "P D"], patch_size: tuple[int, int], new_size: tuple[int, int]
) -> Float[np.ndarray, "Q D"]:
    """The kernel of a patch embedding for patches of another size, float32 (FlexiViT, Beyer et al. 2023, section 3.4).

    The pseudo-inverse of resizing: with B the matrix that resizes a patch (bilinear, no antialias, half-pixel centres),
    the new kernel is (B')^+ times the old one, so that an enlarged patch gives what the patch gave, exactly, and a
    reduced one the closest to it.
    """
    kernel = einops.rearrange(kernel, "(p q c) d -> p q c d", p=patch_size[0], q=patch_size[1])
    # B is a product of one matrix for the rows and one for the columns, and so is its pseudo-inverse.
    rows, columns = (
        np.linalg.pinv(_bilinear_matrix(old, new).T) for old, new in zip(patch_size, new_size, strict=True)
    )
    found = np.einsum("Pp,Qq,pqcd->PQcd", rows, columns, kernel.astype(np.float64))
    return found.reshape(-1, kernel.shape[-1]).astype(np.float32)


def _bilinear_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "out in"]:
    with jax.ensure_compile_time_eval():
        found = jax.image.resize(jnp.eye(size_in), (size_out, size_in), "linear", antialias=False)
    return np.asarray(found, np.float64)


def change_channels(kernel: Float[np.ndarray, "*P C D"], channels: int) -> Float[np.ndarray, "*P E D"]:
    """The kernel of a first layer for images with another number of channels, as timm adapts pretrained ones
    (`adapt_input_conv`): for one channel the sum over all, else the old channels in turn times old / new.

    So a grey image gives the same as its copy in every channel gave, and unit variance stays about that.
    """
    old = kernel.shape[-2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=-2, keepdims=True)
    return kernel[..., np.arange(channels) % old, :] * np.float32(old / channels)


class PatchEmbed(nn.Module):
    """A linear map of every patch, equal to a convolution with kernel and stride of a patch.

    The kernel is (P, D) with P in the order of `patchify`. use_bias: False in CLIP.
    """

    width: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    use_bias: bool = True

    @nn.compact
    def __call__(self, patches: Float[Array, "B N P"]) -> Float[Array, "B N D"]:
        default = fan_in_uniform(patches.shape[-1])  # what the originals' framework gives a convolution
        return nn.Dense(
            self.width,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.start.patch_kernel or default,
            bias_init=self.start.patch_bias or default,
            name="proj",
        )(patches)
