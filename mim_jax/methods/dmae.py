"""DMAE: Masked Autoencoders Enable Efficient Knowledge Distillers (Bai et al. CVPR 2023).

Hidden, predicted, error: MAE's, and beside it the features that a larger, frozen MAE has of the same visible patches at
three quarters of its depth. By whom: MAE's encoder and decoder, and a linear layer behind a block at three quarters of
the encoder. Error of the features: L1 between directions.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.methods.base import Variables
from mim_jax.methods.building import start
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.models.alignment_heads import AlignmentHead, alignment_flops
from mim_jax.models.projection_head import unit
from mim_jax.models.teacher import TeacherConfig
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig

FEATURE_LOSSES = {"l1": jnp.abs, "l2": jnp.square}
LARGE: dict[str, Any] = {"model": dict(width=1024, depth=24, heads=16)}


@dataclasses.dataclass(frozen=True)
class DMAE(MaskedAutoencoder):
    """MAE that learns from a larger MAE; the defaults are L/16 to B/16. The teacher sees what the encoder sees."""

    name: ClassVar[str] = "dmae"

    target: str = "pixel"  # the released commands do not standardise
    teacher: TeacherConfig = TeacherConfig(model=VitConfig(**LARGE["model"]))
    blocks: tuple[int, ...] = (8,)  # of the encoder, from 0, without a norm; in pairs with the teacher's
    teacher_blocks: tuple[int, ...] = (17,)
    projection: str = "linear"  # linear | mlp (uncertain in its details) | none
    feature_loss: str = "l1"  # l1 | l2; of directions where there is a projection, else of the features themselves

    @classmethod
    def settings(cls, values):
        return values | {"teacher": TeacherConfig.from_section(LARGE | dict(values.get("teacher", {})))}

    def check(self) -> None:
        super().check()
        check_choices(self, "method", projection=("linear", "mlp", "none"), feature_loss=FEATURE_LOSSES)
        pairs = (("blocks", self.blocks, self.model), ("teacher_blocks", self.teacher_blocks, self.teacher.model))
        for key, blocks, model in pairs:
            if not blocks or len(blocks) != len(self.blocks) or not all(0 <= i < model.depth for i in blocks):
                raise ConfigError(
                    f"method.{key} {blocks} must be numbers of blocks from 0 to {model.depth - 1}, as many for the "
                    "encoder as for the teacher"
                )
        if self.teacher.model.grid != self.model.grid or self.teacher.model.prefix != self.model.prefix:
            raise ConfigError(
                "method.teacher.model and model must have the same grid, and both a class token or neither"
            )
        if self.projection == "none" and self.teacher.model.width != self.model.width:
            raise ConfigError("method.projection 'none' compares features of one width; take 'linear'")

    @classmethod
    def tiny_settings(cls, image_size, channels):
        model = dict(image_size=image_size, channels=channels, patch_size=4, width=12, depth=3, heads=2)
        teacher = dict(model=model, mean=(0.5,) * channels, std=(0.25,) * channels)
        return dict(teacher=teacher, blocks=(0,), teacher_blocks=(1,))

    def sources(self):
        return {"teacher": self.teacher.source}

    @property
    def taught(self) -> TeacherConfig:
        """The teacher as far as it is run: up to its last block that is looked at."""
        return dataclasses.replace(self.teacher, blocks=max(self.teacher_blocks) + 1, norm=False)

    @property
    def head(self) -> AlignmentHead:
        return AlignmentHead(self.teacher.model.width, self.projection == "mlp", self.model.dtype)

    def init(self, key, batch) -> Variables:
        params, tokens = super().init(key, batch).params, jnp.zeros((1, 1, self.model.width))
        if self.projection != "none":
            heads = {f"align_{i}": (self.head, tokens) for i in range(len(self.blocks))}
            params |= start(jax.random.fold_in(key, 1), **heads)
        return Variables(params=params, frozen={"teacher": self.taught.start(jax.random.fold_in(key, 2))["teacher"]})

    def latent(self, params, images, draws):
        shown = {"visible": draws["mask"].visible, "noise": draws["drop_path"], "layers": True}
        latent, outputs = Vit(self.model).apply({"params": params["encoder"]}, images, **shown)
        return latent, {"features": tuple(outputs[i].astype(jnp.float32) for i in self.blocks)}

    def forward(self, params, extra, frozen, batch, draws, progress):
        pixels, output = super().forward(params, extra, frozen, batch, draws, progress)
        shown, encoder = {"visible": draws["mask"].visible, "layers": True}, self.taught.encoder
        _, found = encoder.apply({"params": frozen["teacher"]}, batch["image"], **shown)
        teacher = tuple(jax.lax.stop_gradient(found[i].astype(jnp.float32)) for i in self.teacher_blocks)
        losses = []
        for i, (ours, theirs) in enumerate(zip(output.trace["features"], teacher, strict=True)):
            if self.projection != "none":
                ours, theirs = unit(self.head.apply({"params": params[f"align_{i}"]}, ours)), unit(theirs)
            losses.append(FEATURE_LOSSES[self.feature_loss](ours - theirs).mean())
        terms = {"reconstruction": pixels} | {f"features_{i}": loss for i, loss in enumerate(losses)}
        return pixels + sum(losses), output.replace(terms=terms, trace=output.trace | {"teacher_features": teacher})

    def flops(self) -> float:
        tokens, width = self.model.prefix + self.seen, self.teacher.model.width
        heads = alignment_flops(tokens, self.model.width, width, self.projection) * len(self.blocks)
        return super().flops() + 3 * heads + vit_flops(self.taught.encoder.config, self.seen)
