"""The sizes of a vision transformer behind a convolutional stem, as a config section gives them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from flax.typing import Dtype

from mim_jax.errors import ConfigError, check_choices, nearest
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.block import StackConfig
from mim_jax.nn.patches import both_sides, patch_grid

SIZES: dict[str, dict[str, Any]] = {
    "B": {"stem_width": (256, 384), "width": 768, "depth": 11, "heads": 12},
    "L": {"stem_width": (384, 768), "width": 1024, "depth": 23, "heads": 16},
}
FINETUNING = ("drop_path_rate", "positions")  # keys that pretraining leaves at their defaults


def variant(name: str, image_size: tuple[int, int] = (224, 224), channels: int = 3, **settings: Any) -> dict[str, Any]:
    """The `model` section of a config for a size such as 'B'; `settings`: further keys of the section.

    Raises:
        ConfigError: no such size, with the nearest.
    """
    if name not in SIZES:
        raise ConfigError(f"model variant '{name}' is not known{nearest(name, SIZES)}")
    config = ConvVitConfig(image_size, channels, **(SIZES[name] | settings))
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in ("precision", *FINETUNING)}


@dataclasses.dataclass(frozen=True)
class ConvVitConfig:
    """Sizes of the stem's stages and of the transformer; each begins by cutting its input into patches."""

    image_size: tuple[int, int] = (224, 224)  # (height, width)
    channels: int = 3
    stem_width: tuple[int, ...] = (256, 384)  # of each stage of convolutions
    stem_depth: tuple[int, ...] = (2, 2)
    stem_mlp_ratio: tuple[int | float, ...] = (4.0, 4.0)
    strides: tuple[int, ...] = (4, 2, 2)  # sides of the patches of each stage, and of the transformer
    width: int = 768
    depth: int = 11
    heads: int = 12
    mlp_ratio: float = 4.0
    scan: bool = False  # of the transformer's blocks
    remat: str = "none"  # none | full | dots
    precision: str = "fp32"  # compute: fp32 | bf16
    layer_norm_eps: float = 1e-6  # of the transformer; the stem has 1e-5, as the authors' classes give it
    drop_path_rate: float = 0.0  # of the last block; it grows from the first one of the stem
    positions: str = "sincos"  # of the transformer: sincos (fixed) | learned_sincos (its start)

    @classmethod
    def from_section(cls, values: Mapping[str, Any]) -> ConvVitConfig:
        """From a config section whose keys have been checked; an image side given once serves both.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        config = cls(**both_sides(values, "image_size"))
        config.check()
        return config

    @property
    def patch_size(self) -> tuple[int, int]:
        """Pixels (down, across) per token of the transformer."""
        return (math.prod(self.strides),) * 2

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
    def cls_token(self) -> bool:
        return False

    @property
    def prefix(self) -> int:
        """Tokens before the patches in what the encoder returns."""
        return 0

    @property
    def blocks(self) -> int:
        """Blocks of the stem and of the transformer."""
        return sum(self.stem_depth) + self.depth

    @property
    def stack(self) -> StackConfig:
        """The transformer's blocks."""
        return self.vit.stack

    @property
    def dtype(self) -> Dtype:
        return self.vit.dtype

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Pixels per position of the maps of the stem, along each side."""
        return tuple(itertools.accumulate(self.strides[:-1], lambda a, b: a * b))

    @property
    def vit(self) -> VitConfig:
        """The transformer: one whose image is the last map, whose patches are its positions, without class token."""
        return VitConfig(
            self.grid,
            self.width,
            (1, 1),
            self.width,
            self.depth,
            self.heads,
            self.mlp_ratio,
            scan=self.scan,
            remat=self.remat,
            precision=self.precision,
            drop_path_rate=self.drop_path_rate,
            positions=self.positions,
            layer_norm_eps=self.layer_norm_eps,
            cls_token=False,
            init="convmae",
        )

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        stages = len(self.stem_width)
        if not stages == len(self.stem_depth) == len(self.stem_mlp_ratio) == len(self.strides) - 1 > 0:
            raise ConfigError(
                f"model.stem_width {self.stem_width}, stem_depth {self.stem_depth} and stem_mlp_ratio "
                f"{self.stem_mlp_ratio} must hold one number for each stage, and model.strides {self.strides} one more"
            )
        if min(self.channels, *self.stem_width, *self.stem_depth, *self.strides) < 1 or min(self.stem_mlp_ratio) <= 0:
            names = "channels, stem_width, stem_depth, strides and stem_mlp_ratio"
            raise ConfigError(f"of the section model, {names} must be positive")
        total = math.prod(self.strides)
        for side, size in zip(("height", "width"), self.image_size, strict=True):
            if size < 1 or size % total:
                raise ConfigError(
                    f"model.image_size: the strides {self.strides}, {total} together, do not divide the image {side} "
                    f"of {size}; the nearest {side} that works is {max(round(size / total), 1) * total}"
                )
        check_choices(self, "model", precision=("fp32", "bf16"), positions=("sincos", "learned_sincos"))
        self.vit.check()
