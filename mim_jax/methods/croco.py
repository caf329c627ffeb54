"""CroCo: Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion (Weinzaepfel et al. NeurIPS 2022),
and CroCo v2 (Weinzaepfel et al. ICCV 2023), whose attention has rotary positions: `model.rope_base`.

Hidden: 90 % of the patches of the first of two views of a scene. Predicted: their pixels, standardised per patch. By
whom: a ViT that sees what is left of the first view and all of the second, and a decoder of the first that attends to
the second. Error: mean square over the hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.mask import Mask
from mim_jax.masking.raster import RasterMasking
from mim_jax.methods.base import Output, Pictures, ViewShape
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.models.croco_decoder import CrocoDecoder, croco_decoder_flops
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patchify
from mim_jax.targets.patch_values import patch_target


@dataclasses.dataclass(frozen=True)
class CroCo(MaskedAutoencoder):
    """Cross-view completion; the defaults are the first version's. Views: `image`, to be completed, and `image2`."""

    name: ClassVar[str] = "croco"
    family: ClassVar[Mapping[str, Any]] = {"cls_token": False}

    model: VitConfig = VitConfig(cls_token=False)
    mask_ratio: float = 0.9
    norm_other: bool = True  # every block of the decoder normalises the second view anew

    def check(self) -> None:
        super().check()
        self.masking.check(self.model.grid)
        model = self.model
        if model.cls_token or model.positions != ("none" if model.rope_base else "sincos"):
            raise ConfigError(
                f"croco has model.cls_token False, and model.positions 'sincos' without model.rope_base or 'none' with "
                f"it, but here they are {model.cls_token}, '{model.positions}' and {model.rope_base}"
            )
        if model.rope_base and self.decoder_width // self.decoder_heads % 4:
            raise ConfigError(
                f"model.rope_base turns the channels of a head in groups of 4, and method.decoder_width "
                f"{self.decoder_width} over method.decoder_heads {self.decoder_heads} does not fall "
                "into them; choose them so that their quotient is a multiple of 4"
            )

    @property
    def masking(self) -> RasterMasking:
        """The number of HIDDEN patches is truncated, and the encoder sees the others in raster order."""
        return RasterMasking("random", mask_ratio=self.mask_ratio)

    @property
    def seen(self) -> int:
        return self.model.tokens - self.masking.count(self.model.tokens)

    def views(self) -> dict[str, ViewShape]:
        return super().views() | {"image2": ViewShape(self.model.image_size, self.model.channels)}

    def modules(self) -> tuple[Vit, CrocoDecoder]:
        sizes = (self.decoder_width, self.decoder_stack, self.outputs)
        return Vit(self.model), CrocoDecoder(*sizes, self.model.rope_base, self.norm_other)

    def parts(self, images):
        encoder, decoder = self.modules()
        latent, other = (jnp.zeros((1, n, self.model.width)) for n in (self.seen, self.model.tokens))
        return {"encoder": (encoder, images), "decoder": (decoder, latent, other, self.mask(jax.random.key(0), 1))}

    def mask(self, key, batch: int, frozen=None) -> Mask:
        return self.masking.draw(key, batch, self.model.grid)

    def draw(self, params, extra, frozen, batch, key, progress):
        draws = super().draw(params, extra, frozen, batch, key, progress)
        size, model = len(batch["image2"]), self.model
        noise = drop_path_noise(jax.random.fold_in(key, 2), size, model.depth, model.drop_path_rate)
        return draws | {"other_drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        (encoder, decoder), mask = self.modules(), draws["mask"]
        latent, _ = self.latent(params, batch["image"], draws)
        other, _ = encoder.apply({"params": params["encoder"]}, batch["image2"], noise=draws["other_drop_path"])
        prediction = decoder.apply({"params": params["decoder"]}, latent, other, mask)
        patches = patchify(batch["image"], self.model.patch_size)
        target = patch_target(self.target, patches)
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        trace = dict(mask=mask, latent=latent, other=other, pred=prediction, target=target, patches=patches)
        return loss, Output({"completion": loss}, weight=weight, trace=trace | dict(loss_per_patch=per_patch))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        pictures = super().show(params, extra, frozen, batch, key)
        return pictures.replace(panels=pictures.panels | {"other view": batch["image2"]})

    def flops(self) -> float:
        model = self.model
        encoder = vit_flops(model, self.seen) + vit_flops(model)
        return 3 * (encoder + croco_decoder_flops(self.modules()[1], self.seen, model.tokens, model.width))
