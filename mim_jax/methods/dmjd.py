"""DMJD: Disjoint Masking with Joint Distillation (Ma, Liu, Xie, Ye, Deng, Ji. arXiv 2301.00230; IEEE TMM).

Hidden: 60 % of the patches of either of two views of one crop, in cells of 2 x 2, chosen so that what one view shows
the other hides. Predicted: histograms of oriented gradients, of the hidden patches and of the visible ones. By whom:
ConvMAE's encoder; of hidden patches MAE's decoder, of visible ones a small projector. Error: mean square where hidden,
smooth L1 where visible.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.losses.smooth_l1 import smooth_l1
from mim_jax.masking.disjoint import CELLS, disjoint_counts, disjoint_mask
from mim_jax.masking.mask import Mask, gather_tokens
from mim_jax.methods.base import Batch, Output, Pictures, Progress, ViewShape
from mim_jax.methods.conv_vits import ConvVitAutoencoder
from mim_jax.methods.crops import merged
from mim_jax.methods.pictures import patch_pictures
from mim_jax.models.conv_vit import conv_vit_flops, first_embed_flops
from mim_jax.models.conv_vit_config import ConvVitConfig
from mim_jax.models.heads import Projector, projector_flops
from mim_jax.nn.patches import patchify
from mim_jax.targets.hog import glyphs
from mim_jax.targets.hog_standardized import BINS, as_glyph_values, standardized_hog

BETA = 2.0  # of the smooth L1 error


@dataclasses.dataclass(frozen=True)
class DMJD(ConvVitAutoencoder):
    """Disjoint masking with joint distillation; the defaults are the released base model.

    Views: `image`, and `raw`, the same crop in [0, 1], from which the target is made.
    """

    name: ClassVar[str] = "dmjd"
    scores_visible: ClassVar[bool] = True
    targets: ClassVar[tuple[str, ...]] = ("hog",)
    family: ClassVar[Mapping[str, Any]] = {"stem_mlp_ratio": (8.0, 8.0)}

    model: ConvVitConfig = ConvVitConfig(stem_mlp_ratio=(8.0, 8.0))
    mask_ratio: float = 0.6
    masking: str = "block"  # block (2 x 2 patches together) | random
    prediction_ratio: float = 1.0  # of the patches, hidden in one view or the other
    target: str = "hog"
    hog_cell: int = 8  # pixels
    decoder_mlp_ratio: int | float = 8.0
    visible_weight: float = 1.0
    # raster (released: predictions, which are in the order in which the encoder sees patches, meet targets in raster
    # order, so mostly those of other patches) | aligned
    visible_order: str = "raster"

    def check(self) -> None:
        super().check()
        check_choices(self, "method", masking=CELLS, visible_order=("raster", "aligned"))
        disjoint_counts(self.model.grid, self.masking, self.mask_ratio, self.prediction_ratio)
        if self.hog_cell < 1 or any(side % self.hog_cell for side in self.model.patch_size):
            raise ConfigError(
                f"method.hog_cell {self.hog_cell} does not divide the patches of {self.model.patch_size}; give a "
                f"divisor of {math.gcd(*self.model.patch_size)}"
            )

    @classmethod
    def tiny_settings(cls, image_size, channels):
        return dict(hog_cell=2)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells in a patch."""
        return self.model.patch_size[0] // self.hog_cell, self.model.patch_size[1] // self.hog_cell

    @property
    def outputs(self) -> int:
        return self.cells[0] * self.cells[1] * BINS * self.model.channels

    @property
    def seen(self) -> int:
        return disjoint_counts(self.model.grid, self.masking, self.mask_ratio, 1.0)[1] * CELLS[self.masking] ** 2

    def views(self) -> dict[str, ViewShape]:
        return super().views() | {"raw": ViewShape(self.model.image_size, self.model.channels, normalize=False)}

    def projector(self) -> Projector:
        return Projector(self.decoder_width, self.outputs, self.model.dtype, self.model.layer_norm_eps)

    def parts(self, images):
        found = super().parts(images)
        decoder, latent, _ = found["decoder"]
        one = jax.tree.map(lambda x: x[:, 0], self.mask(jax.random.key(0), 1))
        return found | {"decoder": (decoder, latent, one), "projector": (self.projector(), latent)}

    def mask(self, key, batch: int, frozen=None) -> Mask:
        return disjoint_mask(key, batch, self.model.grid, self.masking, self.mask_ratio, self.prediction_ratio)

    def values(self, batch: Batch) -> Float[Array, "B N V"]:
        """What is to be predicted, for every patch."""
        return standardized_hog(batch["raw"], self.model.patch_size, self.hog_cell)

    def forward(self, params, extra, frozen, batch, draws, progress):
        """Both views of an image stand behind each other in a batch twice as large; `trace` is of the first."""
        mask = jax.tree.map(merged, draws["mask"])
        latent, _ = self.latent(params, batch["image"], {"mask": mask})
        prediction = self.modules()[1].apply({"params": params["decoder"]}, latent, mask)
        distilled = self.projector().apply({"params": params["projector"]}, latent)
        target = jnp.repeat(self.values(batch), 2, axis=0)
        order = mask.visible if self.visible_order == "aligned" else jnp.sort(mask.visible, axis=1)
        per_patch = squared_error(prediction, target)
        visible = smooth_l1(distilled, gather_tokens(target, order), BETA).mean()
        terms = {"masked": masked_mean(per_patch, mask.hidden)[0], "visible": self.visible_weight * visible}
        both = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        trace: dict[str, Any] = {name: jax.tree.map(lambda x: x[::2], value) for name, value in both.items()}
        trace |= dict(both=both, pred_visible=distilled)
        return sum(terms.values()), Output(terms, weight=jnp.float32(len(batch["image"])), trace=trace)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, model = batch["image"], self.model
        trace = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        drawn = {"HOG": trace["target"], "predicted HOG": trace["pred"]}
        drawn = {name: as_glyph_values(values, self.cells, model.channels) for name, values in drawn.items()}
        maps = {name: glyphs(values, model.grid, self.cells, model.channels) for name, values in drawn.items()}
        panels = {"input": images}
        for view, hidden in enumerate((trace["both"]["mask"].hidden[::2], trace["both"]["mask"].hidden[1::2])):
            pictures = patch_pictures(images, patchify(images, model.patch_size), hidden, model.patch_size)
            panels[f"masked {view + 1}"] = pictures.panels["masked"]
        return Pictures(panels, maps)

    def flops(self) -> float:
        once = first_embed_flops(self.model)  # for both views, and without a gradient to the pixels
        encoder = 3 * (conv_vit_flops(self.model, self.seen, fuse=True) - once)
        heads = self.decoder_flops() + projector_flops(self.projector(), self.seen, self.model.width)
        return 2 * (encoder + 3 * heads) + 2 * once
