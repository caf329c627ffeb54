"""MAE: Masked Autoencoders Are Scalable Vision Learners (He, Chen, Xie, Li, Dollár, Girshick. CVPR 2022).

Hidden: 75 % of the patches, at random. Predicted: their pixels, standardised per patch. By whom: a ViT that sees the
visible patches only, and a small transformer decoder that also sees mask tokens. Error: mean square over the hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.block import block_mask
from mim_jax.masking.mask import Mask
from mim_jax.masking.random import grid_mask, random_mask, visible_count
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.mae_decoder import MaeDecoder, mae_decoder_flops
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig, check_heads
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patchify
from mim_jax.targets.patch_values import TARGETS, patch_pixels, patch_target
from mim_jax.targets.pca import fit_patch_basis

MASKINGS = ("random", "block", "grid")


@dataclasses.dataclass(frozen=True)
class MAE(Method):
    """Masked autoencoder; the defaults are the paper's."""

    name: ClassVar[str] = "mae"

    model: VitConfig = VitConfig()
    mask_ratio: float = 0.75
    masking: str = "random"  # random | block (BEiT's blocks, exact count) | grid (one patch of four stays)
    target: str = "norm_pix"  # norm_pix | pixel | pca
    pca_components: int = 96
    encoder_mask_tokens: bool = False  # show the encoder mask tokens too (table 1c)
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> MAE:
        vit = vit_config(model)
        mae = cls(model=vit, **section(cls, method, "method"))
        visible_count(vit.tokens, mae.mask_ratio)
        check_heads(mae.decoder_width, mae.decoder_heads, "method", "decoder_")
        check_choices(mae, "method", masking=MASKINGS, target=TARGETS)
        if mae.masking == "grid" and mae.mask_ratio != 0.75:
            raise ConfigError(
                f"method.masking 'grid' hides 0.75 of the patches, not method.mask_ratio {mae.mask_ratio}"
            )
        if mae.target == "pca" and not 0 < mae.pca_components <= vit.patch_values:
            raise ConfigError(f"method.pca_components {mae.pca_components} must be between 1 and {vit.patch_values}")
        return mae

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> MAE:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        return cls.from_config(vit, dict(decoder_width=8, decoder_depth=1, decoder_heads=2, pca_components=5))

    @property
    def outputs(self) -> int:
        """Values predicted per patch."""
        return self.pca_components if self.target == "pca" else self.model.patch_values

    @property
    def seen(self) -> int:
        """Patches that the encoder processes."""
        tokens = self.model.tokens
        return tokens if self.encoder_mask_tokens else visible_count(tokens, self.mask_ratio)

    def modules(self) -> tuple[Vit, MaeDecoder]:
        stack = dataclasses.replace(
            self.model.stack, depth=self.decoder_depth, heads=self.decoder_heads, drop_path_rate=0.0
        )
        return Vit(self.model, self.encoder_mask_tokens), MaeDecoder(self.decoder_width, stack, self.outputs)

    def init(self, key, batch) -> Variables:
        encoder, decoder = self.modules()
        images = batch["image"]
        mask, latent = self.mask(jax.random.key(0), 1), jnp.zeros((1, 1 + self.seen, self.model.width))
        params = start(key, encoder=(encoder, images[:1]), decoder=(decoder, latent, mask))
        patches = patchify(images, self.model.patch_size)
        frozen = {"basis": fit_patch_basis(patches, self.pca_components)} if self.target == "pca" else {}
        return Variables(params=params, frozen=frozen)

    def mask(self, key, batch: int) -> Mask:
        grid, tokens = self.model.grid, self.model.tokens
        if self.masking == "grid":
            return grid_mask(batch, grid)
        if self.masking == "block":
            return block_mask(key, batch, grid, tokens - visible_count(tokens, self.mask_ratio))
        return random_mask(key, batch, grid, self.mask_ratio)

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": self.mask(mask_key, size), "drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, decoder = self.modules()
        mask = draws["mask"]
        shown = {"hidden": mask.hidden} if self.encoder_mask_tokens else {"visible": mask.visible}
        latent, _ = encoder.apply({"params": params["encoder"]}, batch["image"], noise=draws["drop_path"], **shown)
        prediction = decoder.apply({"params": params["decoder"]}, latent, mask)
        target = patch_target(self.target, patchify(batch["image"], self.model.patch_size), frozen.get("basis"))
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        return loss, Output(terms={"reconstruction": loss}, weight=weight, trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.modules()[0], params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.model.patch_size
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        prediction = patch_pixels(self.target, output.trace["pred"], patchify(images, size), frozen.get("basis"))
        return patch_pictures(images, prediction, output.trace["mask"].hidden, size, self.target == "norm_pix")

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)

    def flops(self) -> float:
        _, decoder = self.modules()
        encoder = vit_flops(self.model, self.seen)
        sizes = (self.seen, self.model.tokens, self.model.width, self.decoder_width)
        return 3 * (encoder + mae_decoder_flops(*sizes, decoder.stack, self.outputs))
