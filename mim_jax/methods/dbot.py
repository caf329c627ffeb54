"""dBOT: Exploring Target Representations for Masked Autoencoders (Liu, Zhou, Kong, Lin, Ji. ICLR 2024).

Hidden: 75 % of the patches, at random, dropped. Predicted: features of the whole image, standardised per token, by a
frozen network: the student's own random start in the first stage, the student of the stage before in the next ones.
By whom: MAE's encoder and decoder. Error: smooth L1 over the hidden patches and the class token.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import masked_mean
from mim_jax.losses.smooth_l1 import smooth_l1
from mim_jax.masking.random import random_mask, visible_count
from mim_jax.methods.base import Output, Pictures, Progress, Variables
from mim_jax.methods.building import start
from mim_jax.methods.teachers import Taught, direction_pictures
from mim_jax.models.mae_decoder import MaeDecoder, mae_decoder_flops
from mim_jax.models.teacher import TeacherConfig
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import check_heads
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.ema import ema_start, shared_part
from mim_jax.targets.features import normalize_features

HOW_IT_RUNS = ("precision", "scan", "remat", "drop_path_rate", "init")


@dataclasses.dataclass(frozen=True)
class DBOT(Taught):
    """One stage; the defaults are the released recipe. Without method.teacher.source it is the first one."""

    name: ClassVar[str] = "dbot"

    teacher: TeacherConfig = TeacherConfig(norm=False)
    mask_ratio: float = 0.75
    normalize_target: bool = True  # each token to mean 0 and variance 1 (unbiased, 1e-6)
    beta: float = 2.0  # where the error turns from square to straight
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def check(self) -> None:
        visible_count(self.model.tokens, self.mask_ratio)
        check_heads(self.decoder_width, self.decoder_heads, "method", "decoder_")
        if not self.model.cls_token or self.beta <= 0:
            raise ConfigError(f"dBOT predicts the class token and needs model.cls_token; method.beta {self.beta} > 0")
        alike = {key: getattr(self.model, key) for key in HOW_IT_RUNS}
        if not self.teacher.source and dataclasses.replace(self.teacher.model, **alike) != self.model:
            raise ConfigError(
                "method.teacher.source is empty, which makes the student's own start the teacher; then "
                "method.teacher.model must be as model"
            )

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> DBOT:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        alike = {key: value for key, value in vit.items() if key not in HOW_IT_RUNS}
        sizes = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)
        return cls.tiny_of(image_size, channels, vit, teacher=dict(model=alike, norm=False), **sizes)

    def sources(self) -> dict[str, str]:
        return super().sources() if self.teacher.source else {}

    @property
    def seen(self) -> int:
        """Patches that the encoder processes."""
        return visible_count(self.model.tokens, self.mask_ratio)

    def modules(self) -> tuple[Vit, MaeDecoder]:
        stack = dataclasses.replace(self.model.stack, depth=self.decoder_depth, heads=self.decoder_heads)
        return Vit(self.model), MaeDecoder(self.decoder_width, stack, self.teacher.width, predict_cls=True)

    def init(self, key, batch) -> Variables:
        (encoder, decoder), keys = self.modules(), jax.random.split(key)
        mask = random_mask(jax.random.key(0), 1, self.model.grid, self.mask_ratio)
        latent = jnp.zeros((1, 1 + self.seen, self.model.width))
        params = start(keys[0], encoder=(encoder, batch["image"][:1]), decoder=(decoder, latent, mask))
        frozen = self.teacher.start(keys[1])
        if not self.teacher.source:
            frozen["teacher"] = ema_start(shared_part(params["encoder"], frozen["teacher"]))
        return Variables(params=params, frozen=frozen)

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, path_key, decoder_key) = len(batch["image"]), jax.random.split(key, 3)
        rate = self.model.drop_path_rate
        return {
            "mask": random_mask(mask_key, size, self.model.grid, self.mask_ratio),
            "drop_path": drop_path_noise(path_key, size, self.model.depth, rate),
            "decoder_drop_path": drop_path_noise(decoder_key, size, self.decoder_depth, rate),
        }

    def forward(self, params, extra, frozen, batch, draws, progress):
        (encoder, decoder), mask = self.modules(), draws["mask"]
        given = dict(visible=mask.visible, noise=draws["drop_path"])
        latent, _ = encoder.apply({"params": params["encoder"]}, batch["image"], **given)
        prediction = decoder.apply({"params": params["decoder"]}, latent, mask, draws["decoder_drop_path"])
        raw = self.teacher.tokens(frozen, batch["teacher"])
        target = normalize_features(raw, 1e-6, unbiased=True) if self.normalize_target else raw
        per_token = smooth_l1(prediction, target, self.beta)
        counted = jnp.concatenate([jnp.ones_like(mask.hidden[:, :1]), mask.hidden], axis=1)
        loss, weight = masked_mean(per_token, counted)
        trace = dict(mask=mask, latent=latent, pred=prediction[:, 1:], target=target[:, 1:])
        trace |= dict(tokens=prediction, target_tokens=target, teacher=raw, counted=counted)
        return loss, Output({"features": loss}, weight=weight, trace=trace | dict(loss_per_patch=per_token[:, 1:]))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        arrays = (t["mask"].hidden, t["pred"], t["target"], t["loss_per_patch"])
        return direction_pictures(batch["image"], self.model.patch_size, *arrays)

    def flops(self) -> float:
        sizes = (self.seen, self.model.tokens, self.model.width, self.decoder_width)
        decoder = mae_decoder_flops(*sizes, self.modules()[1].stack, self.teacher.width)
        return 3 * (vit_flops(self.model, self.seen) + decoder) + self.teacher.flops()
