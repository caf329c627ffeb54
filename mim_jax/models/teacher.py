"""A frozen vision transformer whose tokens are the target: CLIP's in the paper, an encoder of a run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mim_jax.errors import ConfigError, check_keys
from mim_jax.models.attention_map import Inside, look_inside
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig

Tree = Any


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Which encoder teaches, and where its weights come from.

    source: run folder whose encoder is read; model: its sizes, keys of the section `model` of that run. Where it says
        `projection`, the targets are the tokens behind the encoder's own projection, as CAE v2 takes CLIP's.
    outputs: width of a fixed random linear map behind the final norm, without bias, for encoders without their own
        projection; 0: none.
    mean, std: of pixels in [0, 1], per channel, as the teacher was trained; the defaults are CLIP's.
    blocks: how many of its blocks teach; -1: all, 0: the embedded patches are the target. norm: the final norm too.
    """

    source: str = ""
    model: VitConfig = VitConfig()
    outputs: int = 0
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    blocks: int = -1
    norm: bool = True

    @classmethod
    def from_section(cls, values: Mapping[str, Any], where: str = "method.teacher") -> TeacherConfig:
        """From a section of a config.

        Raises:
            ConfigError: an unknown key, or an impossible value, with the nearest valid one.
        """
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        model = dict(values.get("model", {}))
        for given, kind, prefix in ((values, cls, where), (model, VitConfig, f"{where}.model")):
            check_keys(kind, given, prefix, "a teacher")
        config = cls(**{**values, "model": VitConfig.from_section(model)})
        if not config.model.cls_token:
            raise ConfigError(f"{where}.model.cls_token must be true: the class token is a target too")
        for key in ("mean", "std"):
            if len(getattr(config, key)) != config.model.channels:
                raise ConfigError(f"{where}.{key} needs {config.model.channels} values, one per channel of the teacher")
        if not -1 <= config.blocks <= config.model.depth:
            raise ConfigError(
                f"{where}.blocks {config.blocks} must be between 0 and {where}.model.depth {config.model.depth}, or -1 "
                "for all"
            )
        if config.outputs < 0:
            raise ConfigError(f"{where}.outputs {config.outputs} must be positive, or 0 for no projection")
        if config.outputs and config.model.projection:
            raise ConfigError(
                f"{where}.outputs {config.outputs} would put a random map behind the teacher's own of "
                f"{where}.model.projection {config.model.projection}; set one of the two to 0"
            )
        return config

    @property
    def width(self) -> int:
        """Values of a target."""
        return self.outputs or self.model.projection or self.model.width

    @property
    def encoder(self) -> Vit:
        """The part of the teacher that is run."""
        depth = self.model.depth if self.blocks < 0 else self.blocks
        plain: dict[str, Any] = {} if depth else {"scan": False, "remat": "none"}
        return Vit(dataclasses.replace(self.model, depth=depth, drop_path_rate=0.0, **plain), final_norm=self.norm)

    def start(self, key: PRNGKeyArray) -> dict[str, Tree]:
        """Entries of `frozen`: `teacher`, and `projection` where there is one (with orthonormal columns or rows)."""
        encoder_key, projection_key = jax.random.split(key)
        images = jnp.zeros((1, *self.model.image_size, self.model.channels))
        made = {"teacher": self.encoder.init(encoder_key, images)["params"]}
        if self.outputs:
            shape = (self.model.width, self.outputs)
            made["projection"] = jax.nn.initializers.orthogonal()(projection_key, shape)
        return made

    def tokens(self, frozen: Mapping[str, Tree], images: Float[Array, "B ..."]) -> Float[Array, "B T O"]:
        """Targets for images in [0, 1], float32, without gradient: cls, then all patches in raster order.

        Tokens (B, T, O) are targets already and pass.
        """
        if images.ndim == 3:
            return images
        tokens, _ = self.encoder.apply({"params": frozen["teacher"]}, self.normalized(images))
        tokens = tokens.astype(jnp.float32)
        matrix = frozen["teacher"]["projection"] if self.model.projection else frozen.get("projection")
        return jax.lax.stop_gradient(tokens if matrix is None else tokens @ matrix)

    def inside(self, frozen: Mapping[str, Tree], images: Float[Array, "B H W C"] | Inside) -> Inside:
        """Attention and states of every block for images in [0, 1], without gradient; what was seen before passes."""
        if isinstance(images, Inside):
            return images
        seen = look_inside(self.encoder.config, frozen["teacher"], self.normalized(images))
        return jax.lax.stop_gradient(seen)

    def normalized(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Images in [0, 1] as the teacher was trained with."""
        return (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def flops(self) -> float:
        """Forward FLOPs for one image."""
        tokens = self.model.prefix + self.model.tokens
        return vit_flops(self.encoder.config) + 2.0 * tokens * self.model.width * (
            self.outputs or self.model.projection
        )
