"""HPM: Hard Patches Mining for Masked Image Modeling (Wang et al. CVPR 2023), and Bootstrap HPM (arXiv 2312.13714).

Hidden: 75 % of the patches, a growing share of them those that a moving average of the model expects to be hard.
Predicted: their pixels, or features (Bootstrap HPM), and by a second decoder how large the error of each will be. By
whom: MAE's encoder and two decoders. Error: mean square, and a ranking of all pairs of hidden patches.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.losses.ranking import PREDICTOR_LOSSES
from mim_jax.masking.hard import hard_counts, hard_mask
from mim_jax.masking.mask import Mask, gather_tokens
from mim_jax.methods.base import Output, Progress, Variables
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.methods.teachers import direction_pictures, teacher_views
from mim_jax.models.hard_patches import ReconstructAndScore, scoring_flops
from mim_jax.models.teacher import TeacherConfig
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.ema import ema_start, ema_update, linear_ramp
from mim_jax.nn.patches import patchify
from mim_jax.targets.patch_values import patch_target


@dataclasses.dataclass(frozen=True)
class HPM(MaskedAutoencoder):
    """Hard patches mining; the defaults are the released code. `extra` holds the moving average of the whole model."""

    name: ClassVar[str] = "hpm"
    encoder_copies: ClassVar[tuple[str, ...]] = ("teacher/encoder",)
    targets: ClassVar[tuple[str, ...]] = ("pixel", "norm_pix", "ema", "teacher")

    target: str = "pixel"  # uncertain: norm_pix is off in the released commands. ema, teacher: their features
    predictor_loss: str = "relative"  # relative (ranking) | absolute (regression of the standardised error)
    hard_share: float = 0.5  # of the hidden patches are chosen by score in the last epoch
    hard_epochs: float = 200.0  # epochs until then: the length of the run
    ema_start: float = 0.999  # which becomes `ema_end` in `ema_epochs`, however long the run
    ema_end: float = 0.9999
    ema_epochs: float = 100.0
    evaluate: str = "student"  # student (as the authors) | teacher (the moving average): which encoder is judged
    teacher: TeacherConfig = TeacherConfig()  # where `target` is 'teacher'

    @classmethod
    def settings(cls, values):
        return values | {"teacher": TeacherConfig.from_section(values.get("teacher", {}))}

    def check(self) -> None:
        super().check()
        check_choices(self, "method", predictor_loss=PREDICTOR_LOSSES, evaluate=("student", "teacher"))
        for key in ("hard_share", "ema_start", "ema_end", "hard_epochs", "ema_epochs"):
            if not 0 < getattr(self, key) <= (float("inf") if "epochs" in key else 1.0):
                raise ConfigError(f"method.{key} {getattr(self, key)} must be above 0, and a share at most 1")
        if self.target == "teacher" and self.teacher.model.grid != self.model.grid:
            raise ConfigError(f"method.teacher.model has not the grid {self.model.grid} of model; give both the same")

    @classmethod
    def tiny_settings(cls, image_size, channels):
        model = dict(image_size=image_size, channels=channels, patch_size=4, width=8, depth=1, heads=2)
        return dict(hard_epochs=1.0, teacher=dict(model=model, mean=(0.5,) * channels, std=(0.25,) * channels))

    def views(self):
        return teacher_views(self.model, self.teacher) if self.target == "teacher" else super().views()

    def sources(self):
        return {"teacher": self.teacher.source} if self.target == "teacher" else {}

    @property
    def outputs(self) -> int:
        return dict(ema=self.model.width, teacher=self.teacher.width).get(self.target, self.model.patch_values)

    def modules(self) -> tuple[Vit, ReconstructAndScore]:
        sizes = (self.decoder_width, self.decoder_stack, self.outputs, self.model.patch_values)
        return Vit(self.model), ReconstructAndScore(*sizes, self.row_first)

    def init(self, key, batch) -> Variables:
        params = super().init(key, batch).params
        frozen = self.teacher.start(jax.random.fold_in(key, 1)) if self.target == "teacher" else {}
        return Variables(params=params, extra={"teacher": ema_start(params)}, frozen=frozen)

    def whole(self, params, images):
        """Tokens of whole images, and how hard each patch is expected to be."""
        (encoder, decoder), shape = self.modules(), (len(images), self.model.tokens)
        nothing = Mask(jnp.zeros(shape, bool), grid=self.model.grid)
        latent, _ = encoder.apply({"params": params["encoder"]}, images)
        return latent, decoder.apply({"params": params["decoder"]}, latent, nothing, scores_only=True)[1]

    def draw(self, params, extra, frozen, batch, key, progress):
        model, (mask_key, path_key) = self.model, jax.random.split(key)
        counts = jnp.asarray(hard_counts(self.model.tokens - self.seen, self.hard_epochs, self.hard_share))
        hard = counts[jnp.clip(progress.epoch, 0, len(counts) - 1).astype(int)]
        scores = self.whole(extra["teacher"], batch["image"])[1]
        mask = hard_mask(scores, jax.random.uniform(mask_key, scores.shape), hard, self.seen, model.grid)
        return dict(mask=mask, drop_path=drop_path_noise(path_key, len(scores), model.depth, model.drop_path_rate))

    def target_and_error(self, extra, frozen, batch, prediction):
        """What is to be reconstructed, and the error of every patch: of directions, as a sum, where it is features."""
        if "pix" in self.target:
            target = patch_target(self.target, patchify(batch["image"], self.model.patch_size))
            return target, squared_error(prediction, target)
        own = self.target == "ema"
        tokens = (
            self.whole(extra["teacher"], batch["image"])[0] if own else self.teacher.tokens(frozen, batch["teacher"])
        )
        target = jax.lax.stop_gradient(tokens.astype(jnp.float32)[:, 1:])
        unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (prediction, target)]
        return target, jnp.square(unit[0] - unit[1]).sum(-1)

    def forward(self, params, extra, frozen, batch, draws, progress):
        mask, (latent, _) = draws["mask"], self.latent(params, batch["image"], draws)
        prediction, scores = self.modules()[1].apply({"params": params["decoder"]}, latent, mask)
        target, error = self.target_and_error(extra, frozen, batch, prediction)
        reconstruction, weight = masked_mean(error, mask.hidden)
        pair = (gather_tokens(values, mask.masked) for values in (scores, error))
        terms = dict(reconstruction=reconstruction, predictor=PREDICTOR_LOSSES[self.predictor_loss](*pair))
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=error, scores=scores)
        return sum(terms.values()), Output(terms, weight=weight, trace=trace)

    def update(self, extra, params, output, progress):
        decay = linear_ramp(self.ema_start, self.ema_end, jnp.floor(progress.epoch) / self.ema_epochs)
        return {"teacher": ema_update(extra["teacher"], params, decay)}

    def encoder_params(self, params, extra=None):
        return super().encoder_params(params, extra if self.evaluate == "teacher" else None)

    def show(self, params, extra, frozen, batch, key):
        """MAE's pictures, or those of features, and how hard each patch looks."""
        images, patch, scores = batch["image"], self.model.patch_size, self.whole(extra["teacher"], batch["image"])[1]
        scores = (scores - scores.min(1, keepdims=True)).reshape(-1, *self.model.grid)
        maps = {"expected difficulty": jnp.repeat(jnp.repeat(scores, patch[0], 1), patch[1], 2)}
        if "pix" in self.target:
            pictures = super().show(params, extra, frozen, batch, key)
        else:
            t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
            both = (t["mask"].hidden, t["pred"], t["target"], t["loss_per_patch"], t["mask"].hidden)
            pictures = direction_pictures(images, patch, *both)
        return pictures.replace(maps=pictures.maps | maps)

    def flops(self) -> float:
        model, decoder, sizes = self.model, self.modules()[1], (self.model.tokens, self.model.width)
        student = vit_flops(model, self.seen) + scoring_flops(self.seen, *sizes, decoder)
        teacher = vit_flops(model) + scoring_flops(model.tokens, *sizes, decoder, both=False)
        return 3 * student + teacher + self.teacher.flops() * (self.target == "teacher")
