"""What the methods share whose target is what a frozen encoder says of the whole image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Features, Method, ParamGroups, Pictures, ViewShape
from mim_jax.methods.building import section
from mim_jax.methods.pictures import feature_colours, patch_pictures
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.teacher import TeacherConfig
from mim_jax.models.vit import Vit
from mim_jax.nn.patches import patchify


@dataclasses.dataclass(frozen=True)
class Taught(Method):
    """A vision transformer, params['encoder'], with a frozen teacher that sees the view `teacher` of the same crop.

    family: what the method sets in the `model` section where a config says nothing.
    """

    family: ClassVar[Mapping[str, Any]] = {}

    teacher: TeacherConfig = TeacherConfig()

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Any:
        values = section(cls, method, "method")
        if isinstance(values.get("teacher"), Mapping):
            values["teacher"] = TeacherConfig.from_section(values["teacher"])
        made = cls(**values | {"model": cls.encoder_config(model)})
        if made.teacher.model.grid != made.model.grid:
            raise ConfigError(
                f"method.teacher.model has {made.teacher.model.grid} patches and model {made.model.grid}; give both "
                "the same grid"
            )
        made.check()
        return made

    @classmethod
    def encoder_config(cls, model: Mapping[str, Any]) -> Any:
        """The section `model`, checked."""
        return vit_config(model, cls.family)

    def check(self) -> None:
        """Refuses what this method cannot be."""

    @classmethod
    def tiny_of(cls, image_size: tuple[int, int], channels: int, model: Mapping[str, Any], **method: Any) -> Any:
        """A very small instance: a teacher of another size, patch and width, and `method` for the rest."""
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | dict(model)
        size = [2 * n for n in image_size]
        teacher = dict(image_size=size, channels=channels, patch_size=8, width=8, depth=2, heads=2)
        given = dict(model=teacher, mean=(0.5,) * channels, std=(0.25,) * channels) | method.pop("teacher", {})
        return cls.from_config(vit, dict(teacher=given, **method))

    def views(self) -> dict[str, ViewShape]:
        return teacher_views(self.model, self.teacher)

    def sources(self) -> dict[str, str]:
        return {"teacher": self.teacher.source}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(Vit(self.model), params["encoder"], images, layers)

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)


def teacher_views(model: Any, teacher: TeacherConfig) -> dict[str, ViewShape]:
    """The encoder's view, `image`, and the teacher's, `teacher`, of pixels in [0, 1]."""
    whole = ViewShape(teacher.model.image_size, teacher.model.channels, normalize=False)
    return {"image": ViewShape(model.image_size, model.channels), "teacher": whole}


def direction_pictures(
    images: Float[Array, "B H W C"],
    patch_size: tuple[int, int],
    hidden: Bool[Array, "B N"],
    predicted: Float[Array, "B N D"],
    target: Float[Array, "B N D"],
    error: Float[Array, "B N"],
    shown: Bool[Array, "B N"] | None = None,
) -> Pictures:
    """Input, masked input, directions of predicted and of true features in one colour space, and the error.

    shown: patches of which there is a prediction; all by default.
    """
    grid = (images.shape[1] // patch_size[0], images.shape[2] // patch_size[1])
    plain = patch_pictures(images, patchify(images, patch_size), hidden, patch_size).panels
    shown = jnp.ones_like(hidden) if shown is None else shown
    predicted = jnp.where(shown[..., None], predicted, target)
    unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in (predicted, target)]
    colours = feature_colours(jnp.concatenate(unit), grid, jnp.concatenate([images, images]))
    ours, theirs = jnp.split(colours, 2)

    def pixels(values: Float[Array, "B N"]) -> Float[Array, "B H W"]:
        values = values.reshape(-1, *grid)
        return jnp.repeat(jnp.repeat(values, patch_size[0], 1), patch_size[1], 2)

    ours = jnp.where(pixels(shown.astype(jnp.float32))[..., None] > 0, ours, 0.0)
    drawn = {"features predicted": ours, "teacher's features": theirs}
    error = jnp.where(shown, jnp.maximum(error, 0.0), 0.0)
    return Pictures({"input": images, "masked": plain["masked"]} | drawn, {"error": pixels(error)})
