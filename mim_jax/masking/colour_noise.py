"""Masks cut out of filtered noise (ColorMAE, Hinojosa et al. ECCV 2024, section 3).

White noise through one of four filters made of Gaussian blurs: red (what a blur leaves: large blobs), blue (what it
takes away: evenly spread points), green (the band between a weak and a strong blur) and purple (all but that band). A
bank of such images is made once; a mask is a small window of one of them, whose largest values stay visible.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError, check_choices, check_keys
from mim_jax.masking.mask import Mask, mask_from_noise

SIGMAS = {"red": (2.0,), "blue": (2.0,), "green": (0.5, 2.0), "purple": (0.5, 2.0)}


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """A bank of filtered noise.

    source: file of the bank (.npy or .npz: K, S, S); '' makes it at the start from what follows.
    colour: red | blue | green | purple. sigmas: deviations of the blurs in cells of the mask: one for red and blue,
        weak and strong for green and purple; (): those of SIGMAS. The released code has the filtered images only, so
        these, `count` and `size` are uncertain.
    count, size: images and their side. seed: of the white noise.
    """

    source: str = ""
    colour: str = "green"
    sigmas: tuple[float, ...] = ()
    count: int = 3072
    size: int = 64
    seed: int = 0

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.noise") -> NoiseConfig:
        """From a section of a config.

        Raises:
            ConfigError: an unknown key, or an impossible value.
        """
        check_keys(cls, values, where)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
        config = cls(**given)
        check_choices(config, where, colour=tuple(SIGMAS))
        blurs = config.blurs
        if len(blurs) != len(SIGMAS[config.colour]) or min(blurs) <= 0 or sorted(set(blurs)) != list(blurs):
            raise ConfigError(
                f"{where}.sigmas {config.sigmas} must be {len(SIGMAS[config.colour])} positive deviation(s) for "
                f"'{config.colour}', the smaller one first, such as {SIGMAS[config.colour]}"
            )
        if min(config.count, config.size) < 1:
            raise ConfigError(f"{where}.count {config.count} and {where}.size {config.size} must be at least 1")
        return config

    @property
    def blurs(self) -> tuple[float, ...]:
        return self.sigmas or SIGMAS[self.colour]

    def bank(self) -> Float[Array, "K S S"]:
        """The images, each spread over 0 to 1.

        Only the order of values matters, and division by a window's maximum keeps it where that is positive.
        """
        noise = jax.random.normal(jax.random.key(self.seed), (self.count, self.size, self.size))
        blurred = [_blurred(noise, sigma) for sigma in self.blurs]
        kept = blurred[0] - blurred[1] if len(blurred) == 2 else blurred[0]
        images = noise - kept if self.colour in ("blue", "purple") else kept
        low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
        return (images - low) / jnp.maximum(high - low, 1e-12)


def blur_matrix(size: int, sigma: float) -> Float[np.ndarray, "S S"]:
    """Matrix of a Gaussian blur along one axis that goes on periodically."""
    kernel = np.fft.ifft(np.exp(-2 * (np.pi * sigma * np.fft.fftfreq(size)) ** 2)).real
    return kernel[(np.arange(size)[:, None] - np.arange(size)) % size].astype(np.float32)


def _blurred(images: Float[Array, "K S S"], sigma: float) -> Float[Array, "K S S"]:
    matrix = blur_matrix(images.shape[1], sigma)
    return jnp.einsum("Hh,Ww,khw->kHW", matrix, matrix, images, precision="highest")


def noise_windows(
    bank: Float[Array, "K S T"],
    corners: Int[Array, "P 2"],
    flips: Bool[Array, "P 2"],
    batch: int,
    window: tuple[int, int],
) -> Float[Array, "B h w"]:
    """A window of the bank for every image, divided by its maximum.

    Image b takes slice b mod K in pass b // K over the bank; all windows of a pass have one corner (row, column) and
    one pair of flips (horizontal, vertical). A batch smaller than the bank sees its first slices only, as in the
    released code.
    """

    def cut(image: Int[Array, ""]) -> Float[Array, "h w"]:
        turn = image // len(bank)
        start = (image % len(bank), corners[turn, 0], corners[turn, 1])
        part = jax.lax.dynamic_slice(bank, start, (1, *window))[0]
        part = jnp.where(flips[turn, 0], part[:, ::-1], part)
        part = jnp.where(flips[turn, 1], part[::-1], part)
        return part / part.max()

    return jax.vmap(cut)(jnp.arange(batch))


def mask_from_windows(windows: Float[Array, "B h w"], visible: int) -> Mask:
    """The largest values stay visible, in falling order (the code; the paper hides them, which is the same for noise
    that is alike upside down)."""
    grid = (windows.shape[1], windows.shape[2])
    return mask_from_noise(-windows.reshape(len(windows), -1), visible, grid)


def noise_mask(key: PRNGKeyArray, bank: Float[Array, "K S T"], batch: int, grid: tuple[int, int], visible: int) -> Mask:
    """A mask for every image of a batch from random windows of the bank."""
    passes, (corner_key, flip_key) = -(-batch // len(bank)), jax.random.split(key)
    room = jnp.asarray([bank.shape[1] - grid[0] + 1, bank.shape[2] - grid[1] + 1])
    corners = jax.random.randint(corner_key, (passes, 2), 0, room)
    flips = jax.random.bernoulli(flip_key, 0.5, (passes, 2))
    return mask_from_windows(noise_windows(bank, corners, flips, batch, grid), visible)
