"""The sizes and switches of a vision transformer, as a config section gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax.typing import Dtype

from mim_jax.errors import ConfigError, check_choices
from mim_jax.nn.block import REMAT_POLICIES, StackConfig
from mim_jax.nn.init import INITS
from mim_jax.nn.mlp import ACTIVATIONS, MLPS
from mim_jax.nn.patches import both_sides, patch_grid

SIZES = {  # width, depth, heads
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}
# Switches of encoders that others publish as teachers, with the value of the plain network.
SPECIAL: dict[str, Any] = dict(
    registers=0,
    mlp="mlp",
    activation="gelu",
    pre_norm=False,
    patch_bias=True,
    projection=0,
    rope=0,
    rope_base=0.0,
    mlp_norm=False,
    attention_norm=False,
)
DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


def variant(name: str, image_size: tuple[int, int] = (224, 224), channels: int = 3, **settings: Any) -> dict[str, Any]:
    """The `model` section of a config for a name such as 'B/16'; `settings`: further keys of the section.

    Raises:
        ConfigError: a name that is not SIZE/PATCH with a known size.
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdigit():
        raise ConfigError(f"model variant '{name}' is not one of {', '.join(SIZES)} followed by /patch, such as B/16")
    width, depth, heads = SIZES[size]
    sizes: dict[str, Any] = dict(image_size=image_size, channels=channels, patch_size=(int(patch),) * 2)
    config = VitConfig(**sizes, width=width, depth=depth, heads=heads, **settings)
    return {k: v for k, v in dataclasses.asdict(config).items() if k != "precision"}


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
    # sincos (fixed) | sincos_row (row first) | sincos_cae (the same on squares; on rectangles as CAE's code numbers the
    # patches: column by column) | learned | learned_sincos (its start) | none
    positions: str = "sincos"
    position_offset: float = 0.0  # 0.1: learned positions are resized as DINO and iBOT do it
    position_antialias: bool = False  # they are resized with antialias (timm; DINOv2 with registers)
    drop_path_rate: float = 0.0
    scan: bool = False  # run the blocks as one scanned block
    remat: str = "none"  # none | full | dots
    precision: str = "fp32"  # compute: fp32 | bf16
    layer_norm_eps: float = 1e-6
    cls_token: bool = True
    qkv_bias: str = "full"  # full | qv (none for k) | none
    layer_scale: float = 0.0  # start of the learned scale of both branches; 0: none
    relative_bias: str = "none"  # none | shared (one table for all blocks) | per_block
    # How they start: mae | beit | cae | convmae | maskfeat | ibot | ijepa | msn | multimae | eva02
    init: str = "mae"
    registers: int = 0  # learned tokens beside the class token, without positions, which no output shows (DINOv2)
    # mlp | swiglu (DINOv2's giant: two thirds of mlp_ratio * width units) | swiglu_exact (EVA-02: as many units)
    mlp: str = "mlp"
    activation: str = "gelu"  # of the perceptron: gelu | quick_gelu (CLIP)
    pre_norm: bool = False  # a norm before the blocks (CLIP)
    patch_bias: bool = True  # of the patch embedding; False in CLIP
    projection: int = 0  # outputs of a linear map that the encoder carries for distillation and does not apply (CLIP)
    rope: int = 0  # rotary positions beside the others, in units of a grid with so many rows and columns (EVA-02: 16)
    # rotary positions of CroCo v2 instead: the base of their frequencies (100.0), positions whole numbers; 0: none
    rope_base: int | float = 0.0
    mlp_norm: bool = False  # a norm before the last layer of the perceptron (EVA-02 B and L)
    attention_norm: bool = False  # and before that of attention (EVA-CLIP)
    patch_gradient: float = 1.0  # share of its gradient that the patch embedding gets (EVA-02: 0.1)

    @classmethod
    def from_section(cls, values: Mapping[str, Any]) -> VitConfig:
        """From a config section whose keys have been checked; a patch or image side given once serves both."""
        config = cls(**both_sides(values, "patch_size", "image_size"))
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
            self.qkv_bias,
            self.layer_scale,
            self.grid if self.relative_bias == "per_block" else None,
            self.init,
            self.mlp,
            self.activation,
            self.mlp_norm,
            self.attention_norm,
        )

    @property
    def prefix(self) -> int:
        """Tokens before the patches in what the encoder returns, and rows before theirs in a table of positions."""
        return 1 if self.cls_token else 0

    @property
    def special(self) -> tuple[str, ...]:
        """Keys of the switches that the plain vision transformer does not have, and that are on here.

        A foreign layout that does not know them must refuse a model with one.
        """
        return tuple(key for key, usual in SPECIAL.items() if getattr(self, key) != usual)

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        patch_grid(self.image_size, self.patch_size)
        check_heads(self.width, self.heads, "model")
        if "sincos" in self.positions and self.width % 4:
            raise ConfigError(f"model.width {self.width} must be a multiple of 4; try {(self.width // 4 + 1) * 4}")
        check_choices(
            self,
            "model",
            positions=("sincos", "sincos_row", "sincos_cae", "learned", "learned_sincos", "none"),
            qkv_bias=("full", "qv", "none"),
            relative_bias=("none", "shared", "per_block"),
            init=tuple(INITS),
            mlp=MLPS,
            activation=tuple(ACTIVATIONS),
            remat=tuple(REMAT_POLICIES),
            precision=tuple(DTYPES),
        )
        if min(self.depth, self.channels, self.width) < 1 or min(self.mlp_ratio, self.layer_norm_eps) <= 0:
            names = "depth, channels, width, mlp_ratio and layer_norm_eps"
            raise ConfigError(f"of the section model, {names} must be positive")
        if self.layer_scale < 0:
            raise ConfigError(f"model.layer_scale {self.layer_scale} must be positive, or 0 to leave it out")
        if not 0 <= self.drop_path_rate < 1:
            raise ConfigError(f"model.drop_path_rate {self.drop_path_rate} must be at least 0 and below 1")
        self._check_special()

    def _check_special(self) -> None:
        if min(self.registers, self.projection) < 0:
            raise ConfigError("of the section model, registers and projection must be positive, or 0 for none")
        if self.registers and self.relative_bias != "none":
            raise ConfigError(
                f"model.registers {self.registers} have no place in the tables of model.relative_bias "
                f"'{self.relative_bias}'; set one of the two to its default"
            )
        if self.mlp != "mlp" and self.activation != "gelu":
            raise ConfigError(f"model.mlp '{self.mlp}' has no model.activation '{self.activation}'; leave it at 'gelu'")
        if self.position_antialias and self.position_offset:
            raise ConfigError("model.position_antialias and model.position_offset are two ways to resize; take one")
        if self.rope < 0 or not 0 <= self.patch_gradient <= 1:
            raise ConfigError(
                f"model.rope {self.rope} must be the side of a grid, or 0 for none, and model.patch_gradient "
                f"{self.patch_gradient} between 0 and 1"
            )
        if self.rope_base and (self.rope or self.rope_base <= 1):
            raise ConfigError(
                f"model.rope_base {self.rope_base} must be above 1, such as 100, and stands in place of model.rope "
                f"{self.rope}; leave one of the two at 0"
            )
        if (self.rope or self.rope_base) and self.width // self.heads % 4:
            key = "rope" if self.rope else "rope_base"
            raise ConfigError(
                f"model.{key} turns the channels of a head in groups of 4, and model.width {self.width} over "
                f"model.heads {self.heads} is {self.width // self.heads}; take other heads"
            )


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
