"""The sizes and switches of a Swin transformer, version 1 or 2, as a config section gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.typing import Dtype

from mim_jax.errors import ConfigError, check_choices
from mim_jax.models.vit_config import DTYPES, check_heads
from mim_jax.nn.block import REMAT_POLICIES
from mim_jax.nn.patches import both_sides, patch_grid

ARCHS = ("swin", "swinv2")
WIDTHS = {  # of the first stage; 32 per head
    "swin": {"T": 96, "S": 96, "B": 128, "L": 192},
    "swinv2": {"T": 96, "S": 96, "B": 128, "L": 192, "H": 352, "g": 448},
}


def swin_variant(arch: str, size: str, image_size: tuple[int, int] = (192, 192), window_size: int = 0) -> dict:
    """The `model` section of a config for a size such as 'B'; window_size 0: the published one at 192 pixels.

    Raises:
        ConfigError: no such size, naming those that exist.
    """
    if arch not in WIDTHS or size not in WIDTHS[arch]:
        names = ", ".join(f"{a}-{s}" for a, sizes in WIDTHS.items() for s in sizes)
        raise ConfigError(f"model variant '{arch}-{size}' is not one of {names}")
    width = WIDTHS[arch][size]
    depths = (2, 2, 6, 2) if size == "T" else (2, 2, 18, 2)
    heads = tuple(width // 32 * 2**stage for stage in range(4))
    window_size = window_size or (12 if arch == "swinv2" or size == "L" else 6)
    settings = SwinConfig(arch, image_size, width=width, depths=depths, heads=heads, window_size=window_size)
    return {k: v for k, v in dataclasses.asdict(settings).items() if k != "precision"}


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes and switches of a Swin transformer."""

    arch: str = "swin"  # swin | swinv2
    image_size: tuple[int, int] = (192, 192)  # (height, width)
    channels: int = 3
    patch_size: tuple[int, int] = (4, 4)
    width: int = 128  # of the first stage; doubles at each further one
    depths: tuple[int, ...] = (2, 2, 18, 2)  # blocks of each stage
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 6  # a side of a window; a stage whose grid is smaller takes its grid and does not shift
    pretrained_windows: tuple[int, ...] = ()  # swinv2: sides of the pretrained windows, one per stage; (): the same
    mlp_ratio: float = 4.0
    positions: str = "none"  # none | learned: added to the patch embedding
    patch_norm: bool = True  # normalise the patch embedding
    qkv_bias: bool = True
    drop_path_rate: float = 0.0
    remat: str = "none"  # none | full | dots
    precision: str = "fp32"  # compute: fp32 | bf16
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_section(cls, values: Mapping[str, Any]) -> SwinConfig:
        """From a config section whose keys have been checked; a patch or image side given once serves both."""
        config = cls(**both_sides(values, "patch_size", "image_size"))
        config.check()
        return config

    @property
    def grid(self) -> tuple[int, int]:
        """Of the patches, before the first stage."""
        return patch_grid(self.image_size, self.patch_size)

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def patch_values(self) -> int:
        return self.patch_size[0] * self.patch_size[1] * self.channels

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels that one token of the last stage stands for, (down, across)."""
        factor = 2 ** (len(self.depths) - 1)
        return self.patch_size[0] * factor, self.patch_size[1] * factor

    @property
    def dtype(self) -> Dtype:
        return DTYPES[self.precision]

    def stage_width(self, stage: int) -> int:
        return self.width * 2**stage

    def stage_grid(self, stage: int) -> tuple[int, int]:
        return self.grid[0] >> stage, self.grid[1] >> stage

    def cell_side(self, stage: int) -> int:
        """Tokens of a stage along a side of a token of the last stage."""
        return 1 << (len(self.depths) - 1 - stage)

    def stage_window(self, stage: int) -> int:
        """Side of the windows: as configured, but never beyond the shorter side of the grid."""
        return min(self.window_size, *self.stage_grid(stage))

    def shift(self, stage: int, block: int) -> int:
        """By how much the windows of a block are moved: half a window in every second block, if there are several."""
        fits = min(self.stage_grid(stage)) <= self.window_size
        return 0 if fits or block % 2 == 0 else self.window_size // 2

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and what would do.
        """
        check_choices(
            self,
            "model",
            arch=ARCHS,
            positions=("none", "learned"),
            remat=tuple(REMAT_POLICIES),
            precision=tuple(DTYPES),
        )
        patch_grid(self.image_size, self.patch_size)
        stages = len(self.depths)
        if not stages or len(self.heads) != stages or len(self.pretrained_windows) not in (0, stages):
            raise ConfigError(
                f"model.depths {self.depths}, model.heads {self.heads} and model.pretrained_windows "
                f"{self.pretrained_windows} must have one entry per stage (pretrained_windows may be empty)"
            )
        if min(self.depths) < 1 or min(self.channels, self.width, self.window_size) < 1:
            raise ConfigError("of the section model, depths, channels, width and window_size must be positive")
        if min(self.mlp_ratio, self.layer_norm_eps) <= 0:
            raise ConfigError("of the section model, mlp_ratio and layer_norm_eps must be positive")
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate {self.drop_path_rate} must be at least 0 and below 1")
        for name, side, stride in zip(("height", "width"), self.image_size, self.stride, strict=True):
            if side % stride:
                raise ConfigError(
                    f"model.image_size: {stages} stages halve the grid {stages - 1} times, so the {name} {side} must "
                    f"be a multiple of {stride}; nearest: {max(round(side / stride), 1) * stride}"
                )
        for stage in range(stages):
            check_heads(self.stage_width(stage), self.heads[stage], "model", f"stage {stage + 1} ")
            self._check_window(stage)

    def _check_window(self, stage: int) -> None:
        grid, side = self.stage_grid(stage), self.stage_window(stage)
        if grid[0] % side or grid[1] % side:
            valid = [w for w in range(1, max(grid) + 1) if all(_fits(self, s, w) for s in range(len(self.depths)))]
            closest = min(valid, key=lambda w: abs(w - self.window_size))
            raise ConfigError(
                f"model.window_size {self.window_size}: windows of {side} x {side} do not tile the grid "
                f"{grid[0]} x {grid[1]} of stage {stage + 1}; nearest that tiles all stages: {closest}"
            )


def _fits(config: SwinConfig, stage: int, window: int) -> bool:
    grid = config.stage_grid(stage)
    side = min(window, *grid)
    return grid[0] % side == 0 and grid[1] % side == 0
