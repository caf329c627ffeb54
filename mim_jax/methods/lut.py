"""LUT: Learning with Unmasked Tokens Drives Stronger Vision Learners (Kim, Chun, Heo, Han. ECCV 2024).

Hidden: 75 % of the patches of either view, others in each. Predicted: the hidden pixels of the first view, as MAE does,
and from the mean of the visible tokens of one view what a moving average of the model says of the whole other
one. By whom: MAE's encoder and decoder, a projector and a predictor. Error: mean square, and 2 - 2 cos.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.cosine import cosine_error
from mim_jax.methods.base import Variables, ViewShape
from mim_jax.methods.building import check_numbers
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.models.batch_norm_head import BatchNormHead, batch_norm_head_flops
from mim_jax.models.projection_head import ACTIVATIONS
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.ema import cosine_ramp, ema_start, ema_update
from mim_jax.nn.sparse import blended

HEADS = ("projector", "predictor")


@dataclasses.dataclass(frozen=True)
class LUT(MaskedAutoencoder):
    """MAE with broader context; the defaults are the recommended ones. Views: `image` (reconstructed) and `image2`.

    `extra` holds the running statistics of the heads' batch norms and the moving average of the whole model, these
    statistics included; its own batch norms use the averaged ones.
    """

    name: ClassVar[str] = "lut"
    batch_statistics: ClassVar[bool] = True
    encoder_copies: ClassVar[tuple[str, ...]] = ("teacher/params/encoder",)

    broad_weight: float = 0.25  # of the second loss; the released parser says 0.1, under a name that nothing reads
    reconstruction_weight: float = 1.0
    projector_depth: int = 2
    predictor_depth: int = 2
    head_hidden: int = 4096
    head_norm: str = "batch"  # batch | none
    head_activation: str = "relu"
    ema_momentum: float = 0.996  # at the start; 1 at the end
    evaluate: str = "student"  # student (as the authors) | teacher (the moving average): which encoder is judged

    def check(self) -> None:
        super().check()
        choices = dict(head_norm=("batch", "none"), head_activation=ACTIVATIONS, evaluate=("student", "teacher"))
        check_choices(self, "method", **choices)
        if 2 * self.seen > self.model.tokens:
            raise ConfigError(
                f"method.mask_ratio {self.mask_ratio} shows {self.seen} of {self.model.tokens} patches of either view, "
                "which cannot be different ones; take at least 0.5"
            )
        if min(self.projector_depth, self.predictor_depth) < 0 or self.head_hidden < 1:
            raise ConfigError(
                "method.projector_depth and predictor_depth must be 0 or more, method.head_hidden 1 or more"
            )
        check_numbers(self, shares=("ema_momentum",))

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(head_hidden=24)

    def views(self):
        return {name: ViewShape(self.model.image_size, self.model.channels) for name in ("image", "image2")}

    def heads(self, running: bool = False) -> dict[str, BatchNormHead]:
        depths = (self.projector_depth, self.predictor_depth)
        settings = (self.head_hidden, self.head_norm == "batch", self.head_activation, running, self.model.dtype)
        return {name: BatchNormHead(depth, *settings) for name, depth in zip(HEADS, depths, strict=True)}

    def init(self, key, batch) -> Variables:
        params, statistics, feature = super().init(key, batch).params, {}, jnp.zeros((2, self.model.width))
        for number, (name, head) in enumerate(self.heads().items()):
            made = head.init(jax.random.fold_in(key, number), feature)
            params[name], statistics[name] = made.get("params", {}), made.get("batch_stats", {})
        teacher = {"params": ema_start(params), "statistics": statistics}
        return Variables(params=params, extra={"statistics": statistics, "teacher": jax.tree.map(jnp.copy, teacher)})

    def draw(self, params, extra, frozen, batch, key, progress):
        draws, c = super().draw(params, extra, frozen, batch, key, progress), self.model
        noise = drop_path_noise(jax.random.fold_in(key, 1), len(batch["image2"]), c.depth, c.drop_path_rate)
        return draws | {"drop_path2": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        reconstruction, output = super().forward(params, extra, frozen, batch, draws, progress)
        second = {"visible": draws["mask"].masked[:, : self.seen], "noise": draws["drop_path2"]}
        latent2, _ = Vit(self.model).apply({"params": params["encoder"]}, batch["image2"], **second)
        moments = []

        def predicted(latent):
            x, found = latent[:, self.model.prefix :].astype(jnp.float32).mean(1), {}
            for name, head in self.heads().items():
                given = {"params": params[name], "batch_stats": extra["statistics"][name]}
                x, moved = head.apply(given, x, mutable=["batch_stats"])
                found[name] = moved.get("batch_stats", {})
            moments.append(found)
            return x

        student = [predicted(latent) for latent in (output.trace["latent"], latent2)]
        teacher = [self.projected(extra["teacher"], batch[name]) for name in ("image", "image2")]
        broad = sum(2.0 * cosine_error(student[i], teacher[1 - i]).mean() for i in (0, 1)) / 2
        loss = self.reconstruction_weight * reconstruction + self.broad_weight * broad
        trace = output.trace | dict(latent2=latent2, student=jnp.stack(student, 1), teacher=jnp.stack(teacher, 1))
        terms = {"reconstruction": reconstruction, "broad": broad}
        return loss, output.replace(terms=terms, carry=tuple(moments), trace=trace)

    def projected(self, teacher, images):
        """The moving average's projection of a whole view."""
        tokens, _ = Vit(dataclasses.replace(self.model, drop_path_rate=0.0)).apply(
            {"params": teacher["params"]["encoder"]}, images
        )
        mean = tokens[:, self.model.prefix :].astype(jnp.float32).mean(1)
        own = {"params": teacher["params"]["projector"], "batch_stats": teacher["statistics"]["projector"]}
        return jax.lax.stop_gradient(self.heads(running=True)["projector"].apply(own, mean))

    def update(self, extra, params, output, progress):
        """The statistics move by either view's, the first view's first; then the whole model is averaged."""
        statistics = blended(extra["statistics"], output.carry)
        decay = cosine_ramp(self.ema_momentum, 1.0, progress.step / progress.total_steps)
        teacher = ema_update(extra["teacher"], {"params": params, "statistics": statistics}, decay)
        return {"statistics": statistics, "teacher": teacher}

    def encoder_params(self, params, extra=None):
        return super().encoder_params(params, extra if self.evaluate == "teacher" else None)

    def flops(self) -> float:
        projector, predictor = (
            batch_norm_head_flops(self.model.width, self.head_hidden, depth)
            for depth in (self.projector_depth, self.predictor_depth)
        )
        student = vit_flops(self.model, self.seen) + 2 * (projector + predictor)
        return super().flops() + 3 * student + 2 * (vit_flops(self.model) + projector)
