"""MAE: Masked Autoencoders Are Scalable Vision Learners (He, Chen, Xie, Li, Dollár, Girshick. CVPR 2022).

Hidden: 75 % of the patches, at random. Predicted: their pixels, standardised per patch. By whom: a ViT that sees the
visible patches only, and a small transformer decoder that also sees mask tokens. Error: mean square over the hidden.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from mim_jax.errors import ConfigError, check_choices
from mim_jax.masking.block import block_mask
from mim_jax.masking.mask import Mask
from mim_jax.masking.random import grid_mask, random_mask, visible_count
from mim_jax.methods.base import Variables
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.models.mae_decoder import MaeDecoder
from mim_jax.models.vit import Vit
from mim_jax.nn.patches import patchify
from mim_jax.targets.patch_values import TARGETS
from mim_jax.targets.pca import fit_patch_basis

MASKINGS = ("random", "block", "grid")


@dataclasses.dataclass(frozen=True)
class MAE(MaskedAutoencoder):
    """Masked autoencoder; the defaults are the paper's."""

    name: ClassVar[str] = "mae"
    targets: ClassVar[tuple[str, ...]] = TARGETS  # norm_pix | pixel | pca

    masking: str = "random"  # random | block (BEiT's blocks, exact count) | grid (one patch of four stays)
    pca_components: int = 96
    encoder_mask_tokens: bool = False  # show the encoder mask tokens too (table 1c)

    def check(self) -> None:
        super().check()
        check_choices(self, "method", masking=MASKINGS)
        if self.masking == "grid" and self.mask_ratio != 0.75:
            raise ConfigError(
                f"method.masking 'grid' hides 0.75 of the patches, not method.mask_ratio {self.mask_ratio}; set that"
            )
        if self.target == "pca" and not 0 < self.pca_components <= self.model.patch_values:
            raise ConfigError(
                f"method.pca_components {self.pca_components} must be between 1 and {self.model.patch_values}"
            )

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(pca_components=5)

    @property
    def outputs(self) -> int:
        return self.pca_components if self.target == "pca" else self.model.patch_values

    @property
    def seen(self) -> int:
        return self.model.tokens if self.encoder_mask_tokens else super().seen

    def modules(self) -> tuple[Vit, MaeDecoder]:
        return Vit(self.model, self.encoder_mask_tokens), super().modules()[1]

    def init(self, key, batch) -> Variables:
        variables = super().init(key, batch)
        if self.target != "pca":
            return variables
        patches = patchify(batch["image"], self.model.patch_size)
        return variables.replace(frozen={"basis": fit_patch_basis(patches, self.pca_components)})

    def mask(self, key, batch: int, frozen=None) -> Mask:
        grid, tokens = self.model.grid, self.model.tokens
        if self.masking == "grid":
            return grid_mask(batch, grid)
        if self.masking == "block":
            return block_mask(key, batch, grid, tokens - visible_count(tokens, self.mask_ratio))
        return random_mask(key, batch, grid, self.mask_ratio)

    def latent(self, params, images, draws):
        if not self.encoder_mask_tokens:
            return super().latent(params, images, draws)
        shown = {"hidden": draws["mask"].hidden, "noise": draws["drop_path"]}
        return self.modules()[0].apply({"params": params["encoder"]}, images, **shown)[0], {}
