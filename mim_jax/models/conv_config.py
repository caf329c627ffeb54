"""The sizes and switches of a convolutional encoder, as a config section gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.typing import Dtype

from mim_jax.errors import ConfigError, check_choices, nearest
from mim_jax.models.vit_config import DTYPES

ARCHITECTURES = ("resnet", "convnext")
RESNET = {"arch": "resnet", "width": (64, 128, 256, 512)}
CONVNEXT = {"arch": "convnext", "block": "depthwise"}
SIZES: dict[str, dict[str, Any]] = {  # drop path: what SparK pretrains with, where it uses the size
    "resnet18": {**RESNET, "block": "basic", "depth": (2, 2, 2, 2), "drop_path_rate": 0.0},
    "resnet34": {**RESNET, "block": "basic", "depth": (3, 4, 6, 3), "drop_path_rate": 0.0},
    "resnet50": {**RESNET, "depth": (3, 4, 6, 3), "drop_path_rate": 0.05},
    "resnet101": {**RESNET, "depth": (3, 4, 23, 3), "drop_path_rate": 0.08},
    "resnet152": {**RESNET, "depth": (3, 8, 36, 3), "drop_path_rate": 0.1},
    "resnet200": {**RESNET, "depth": (3, 24, 36, 3), "drop_path_rate": 0.15},
    "convnext_tiny": {**CONVNEXT, "width": (96, 192, 384, 768), "depth": (3, 3, 9, 3), "drop_path_rate": 0.1},
    "convnext_small": {**CONVNEXT, "width": (96, 192, 384, 768), "depth": (3, 3, 27, 3), "drop_path_rate": 0.2},
    "convnext_base": {**CONVNEXT, "width": (128, 256, 512, 1024), "depth": (3, 3, 27, 3), "drop_path_rate": 0.3},
    "convnext_large": {**CONVNEXT, "width": (192, 384, 768, 1536), "depth": (3, 3, 27, 3), "drop_path_rate": 0.4},
}
# Blocks of the two middle stages of a ResNet that share a layer of the layer-wise learning rate decay (SparK's
# fine-tuning code), by their depths.
RESNET_GROUPS = {(4, 6): (2, 3), (4, 23): (2, 3), (8, 36): (4, 4), (24, 36): (4, 4)}


def variant(name: str, image_size: tuple[int, int] = (224, 224), channels: int = 3, **settings: Any) -> dict[str, Any]:
    """The `model` section of a config for a name such as 'resnet50' or 'convnext_small'; further keys as `settings`.

    Raises:
        ConfigError: no such size, with the nearest.
    """
    if name not in SIZES:
        raise ConfigError(f"model variant '{name}' is not known{nearest(name, SIZES)}")
    config = ConvConfig((image_size[0], image_size[1]), channels, **(SIZES[name] | settings))
    return {key: value for key, value in dataclasses.asdict(config).items() if key != "precision"}


@dataclasses.dataclass(frozen=True)
class ConvConfig:
    """Sizes and switches of a ResNet or ConvNeXt; every stage after the first halves the resolution."""

    image_size: tuple[int, int] = (224, 224)  # (height, width)
    channels: int = 3
    arch: str = "resnet"  # resnet | convnext
    block: str = "bottleneck"  # resnet: bottleneck (four times as wide at its end) | basic; convnext: depthwise
    width: tuple[int, ...] = (64, 128, 256, 512)  # of the blocks of each stage
    depth: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    stem_width: int = 64  # resnet only
    # resnet: 4 (7x7 of stride 2, then max pooling) | 2 (7x7 of stride 2) | 1 (3x3, for small images)
    # convnext: the side of its patches
    stem_stride: int = 4
    drop_path_rate: float = 0.0
    layer_scale: float = 1e-6  # convnext only: start of the learned scale of every branch; 0: none
    zero_init: bool = True  # resnet only: the last norm of every branch starts at 0, so a block starts as identity
    remat: str = "none"  # none | full: recompute every block in the backward pass
    precision: str = "fp32"  # compute: fp32 | bf16

    @classmethod
    def from_section(cls, values: Mapping[str, Any]) -> ConvConfig:
        """From a config section whose keys have been checked; an image side given once serves both.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        values = dict(values)
        for key in ("image_size", "width", "depth"):
            if isinstance(values.get(key), int):
                values[key] = (values[key],) * (2 if key == "image_size" else 1)
        if len(values.get("image_size", (0, 0))) != 2:
            raise ConfigError(
                f"model.image_size {values['image_size']} must be (height, width), or one number for both"
            )
        if values.get("arch") == "convnext":
            values.setdefault("block", "depthwise")
        config = cls(**values)
        config.check()
        return config

    @property
    def stages(self) -> int:
        return len(self.depth)

    @property
    def stride(self) -> int:
        """Pixels per position of the last map; the side of a cell."""
        return self.stem_stride * 2 ** (self.stages - 1)

    @property
    def cell(self) -> tuple[int, int]:
        """(height, width) in pixels of a position of the last map, the unit of masking."""
        return self.stride, self.stride

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the last map."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels of the map that each stage returns, the largest map first."""
        return tuple(width * (4 if self.block == "bottleneck" else 1) for width in self.width)

    @property
    def dtype(self) -> Dtype:
        return DTYPES[self.precision]

    def layers(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Number of layers N, and (pattern below the encoder, layer): stem 0, then groups of blocks from 1 to N.

        A stage is one layer, but the blocks of the long ones are grouped as SparK fine-tunes: the third stage of a
        ConvNeXt by three, the middle stages of a ResNet by two to four.
        """
        groups = list(self.depth)
        if self.stages == 4 and self.arch == "convnext":
            groups[2] = 3
        elif self.stages == 4:
            groups[1:3] = RESNET_GROUPS.get((self.depth[1], self.depth[2]), (2, 3))
        first, patterns = 1, [("(?:conv1|bn1|downsample_0)/", 0)]
        for stage, (depth, group) in enumerate(zip(self.depth, groups, strict=True)):
            patterns.append((f"downsample_{stage}/", first))
            patterns += [(f"stage_{stage}_block_{i}/", first + i // group) for i in range(depth)]
            first += -(-depth // group)
        return first - 1, tuple(patterns)

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        blocks = ("bottleneck", "basic") if self.arch == "resnet" else ("depthwise",)
        check_choices(
            self,
            "model",
            arch=ARCHITECTURES,
            block=blocks,
            stem_stride=(1, 2, 4),
            remat=("none", "full"),
            precision=tuple(DTYPES),
        )
        if len(self.width) != len(self.depth) or min((self.channels, self.stem_width, *self.width, *self.depth)) < 1:
            raise ConfigError(
                f"model.width {self.width} and model.depth {self.depth} must hold one positive number for each stage"
            )
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate {self.drop_path_rate} must be at least 0 and below 1")
        if self.layer_scale < 0:
            raise ConfigError(f"model.layer_scale {self.layer_scale} must be positive, or 0 to leave it out")
        for side, size in zip(("height", "width"), self.image_size, strict=True):
            if size < 1 or size % self.stride:
                closest = max(round(size / self.stride), 1) * self.stride
                raise ConfigError(
                    f"model.image_size: the encoder's total stride of {self.stride} (model.stem_stride "
                    f"{self.stem_stride}, halved {self.stages - 1} times) does not divide the image {side} of {size}; "
                    f"the nearest {side} that works is {closest}"
                )
