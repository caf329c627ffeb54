"""The vision transformer (Dosovitskiy et al. 2021), on all patches or on the visible ones alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import gather_tokens
from mim_jax.nn import flops
from mim_jax.nn.block import REMAT_POLICIES, StackConfig, run_blocks
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patch_grid, patchify
from mim_jax.nn.positions import resize_positions, sincos_2d

SIZES = {  # width, depth, heads
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}
DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


def variant(name: str, image_size: tuple[int, int] = (224, 224), channels: int = 3) -> dict[str, Any]:
    """The `model` section of a config for a name such as 'B/16'.

    Raises:
        ConfigError: a name that is not SIZE/PATCH with a known size.
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdigit():
        raise ConfigError(f"model variant '{name}' is not one of {', '.join(SIZES)} followed by /patch, such as B/16")
    width, depth, heads = SIZES[size]
    settings = VitConfig((image_size[0], image_size[1]), channels, (int(patch), int(patch)), width, depth, heads)
    return {k: v for k, v in dataclasses.asdict(settings).items() if k != "precision"}


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes and switches of a vision transformer."""

    image_size: tuple[int, int] = (224, 224)  # (height, width)
    channels: int = 3
    patch_size: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    positions: str = "sincos"  # sincos (fixed) | learned
    drop_path_rate: float = 0.0
    scan: bool = False  # run the blocks as one scanned block
    remat: str = "none"  # none | full | dots
    precision: str = "fp32"  # compute: fp32 | bf16
    layer_norm_eps: float = 1e-6

    @classmethod
    def from_section(cls, values: Mapping[str, Any]) -> VitConfig:
        """From a config section whose keys have been checked; a patch or image side given once serves both."""
        values = dict(values)
        for key in ("patch_size", "image_size"):
            side = values.get(key, (0, 0))
            sides = (side,) if isinstance(side, int) else tuple(side)
            if len(sides) not in (1, 2):
                raise ConfigError(f"model.{key} {sides} must be (height, width), or one number for both")
            if key in values:
                values[key] = sides * (3 - len(sides))
        config = cls(**values)
        config.check()
        return config

    @property
    def grid(self) -> tuple[int, int]:
        return patch_grid(self.image_size, self.patch_size)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def patch_values(self) -> int:
        return self.patch_size[0] * self.patch_size[1] * self.channels

    @property
    def dtype(self) -> Dtype:
        return DTYPES[self.precision]

    @property
    def stack(self) -> StackConfig:
        return StackConfig(
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.drop_path_rate,
            self.scan,
            self.remat,
            self.dtype,
            self.layer_norm_eps,
        )

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        patch_grid(self.image_size, self.patch_size)
        check_heads(self.width, self.heads, "model")
        if self.positions == "sincos" and self.width % 4:
            raise ConfigError(f"model.width {self.width} must be a multiple of 4; try {(self.width // 4 + 1) * 4}")
        for key, valid in (
            ("positions", ("sincos", "learned")),
            ("remat", tuple(REMAT_POLICIES)),
            ("precision", tuple(DTYPES)),
        ):
            if getattr(self, key) not in valid:
                raise ConfigError(f"model.{key} '{getattr(self, key)}' is not one of {', '.join(valid)}")
        if min(self.depth, self.channels, self.width) < 1 or min(self.mlp_ratio, self.layer_norm_eps) <= 0:
            names = "depth, channels, width, mlp_ratio and layer_norm_eps"
            raise ConfigError(f"of the section model, {names} must be positive")
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate {self.drop_path_rate} must be at least 0 and below 1")


def check_heads(width: int, heads: int, where: str, prefix: str = "") -> None:
    """Refuses heads that do not divide the width.

    Raises:
        ConfigError: names the key, the value and the nearest valid number of heads.
    """
    if heads < 1 or width % heads:
        nearest = min((k for k in range(1, width + 1) if width % k == 0), key=lambda k: abs(k - heads))
        raise ConfigError(
            f"{where}.{prefix}heads {heads} does not divide {where}.{prefix}width {width}; nearest that does: {nearest}"
        )


class Vit(nn.Module):
    """Patch embedding, cls token, positions, blocks, final norm.

    mask_token: whether hidden patches can be replaced by a learned token (used by methods that show them).
    final_norm: False where a head brings its own norm (MAE's fine-tuning with mean pooling).
    """

    config: VitConfig
    mask_token: bool = False
    final_norm: bool = True

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W C"],
        visible: Int[Array, "B V"] | None = None,
        hidden: Bool[Array, "B N"] | None = None,
        noise: Float[Array, "B L 2"] | None = None,
        layers: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B T D"], ...]]:
        """Tokens after the final norm, cls first, and every block's output where `layers` asks for them.

        visible: patch numbers to keep, in the order in which the blocks shall see them (default: all, raster).
        hidden: patches whose embedding is replaced by the mask token, before positions are added.
        """
        c = self.config
        patches = patchify(images, c.patch_size)
        positions = self._positions((images.shape[1] // c.patch_size[0], images.shape[2] // c.patch_size[1]))
        row_positions = jnp.broadcast_to(positions[:, 1:], (images.shape[0], *positions[:, 1:].shape[1:]))
        if visible is not None:
            # The embedding is linear per patch, so hidden patches need not be embedded at all.
            patches, row_positions = gather_tokens(patches, visible), gather_tokens(row_positions, visible)
        x = PatchEmbed(c.width, c.dtype, name="patch_embed")(patches)
        if self.mask_token:
            token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, c.width))
            if hidden is not None:
                x = jnp.where(hidden[:, :, None], token.astype(x.dtype), x)
        x = x + row_positions.astype(x.dtype)
        cls = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, c.width)) + positions[:, :1]
        x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, c.width)).astype(x.dtype), x], axis=1)
        x, outputs = run_blocks(self, c.stack, x, noise, layers)
        return (layer_norm("norm", c.dtype, c.layer_norm_eps)(x) if self.final_norm else x), outputs

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 T D"]:
        c = self.config
        if c.positions == "sincos":
            return jnp.asarray(sincos_2d(grid, c.width))[None]

        def init(key, shape):
            return jnp.asarray(sincos_2d(c.grid, c.width))[None]

        table = self.param("pos_embed", init, (1, 1 + c.tokens, c.width))
        return resize_positions(table, c.grid, grid)


def vit_flops(config: VitConfig, visible: int | None = None) -> float:
    """Forward FLOPs for one image of which `visible` patches (default: all) and the cls token pass the blocks."""
    tokens = config.tokens if visible is None else visible
    embed = flops.dense(tokens, config.patch_values, config.width)
    return embed + flops.blocks(config.depth, tokens + 1, config.width, config.heads, config.mlp_ratio)
