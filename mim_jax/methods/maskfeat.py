"""MaskFeat: Masked Feature Prediction for Self-Supervised Visual Pre-Training (Wei, Fan, Xie, Wu, Yuille,
Feichtenhofer. CVPR 2022), on images.

Hidden: 40 % of the patches, in blocks, replaced by a mask token. Predicted: the histogram of oriented gradients (HOG)
of the original patch. By whom: the whole ViT and one linear layer. Error: mean square over the hidden patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.block import block_hidden
from mim_jax.masking.mask import Mask
from mim_jax.masking.random import visible_count
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.heads import NormLinear
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patchify
from mim_jax.targets.hog import glyphs, hog_target
from mim_jax.targets.patch_values import patch_pixels, patch_target

FAMILY: dict[str, Any] = dict(positions="learned", init="maskfeat")
TARGETS = ("hog", "pixel", "norm_pix")


@dataclasses.dataclass(frozen=True)
class MaskFeat(Method):
    """Masked feature prediction; the defaults are the authors' code, which weights no votes by a Gaussian."""

    name: ClassVar[str] = "maskfeat"

    model: VitConfig = VitConfig(**FAMILY)
    mask_ratio: float = 0.4
    target: str = "hog"  # hog | pixel | norm_pix (the target ablation)
    hog_cell: int = 8  # pixels
    hog_bins: int = 9
    gaussian_window: int = 0  # 16 in mmpretrain

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> MaskFeat:
        vit = vit_config(model, FAMILY)
        made = cls(model=vit, **section(cls, method, "method"))
        visible_count(vit.tokens, made.mask_ratio)
        check_choices(made, "method", target=TARGETS)
        if min(made.hog_cell, made.hog_bins) < 1 or any(side % made.hog_cell for side in vit.patch_size):
            raise ConfigError(
                f"method.hog_cell {made.hog_cell} does not divide model.patch_size {vit.patch_size}; choose a divisor"
            )
        if made.gaussian_window < 0 or any(made.gaussian_window and s % made.gaussian_window for s in vit.image_size):
            raise ConfigError(
                f"method.gaussian_window {made.gaussian_window} does not divide model.image_size {vit.image_size}; "
                "0 leaves it out"
            )
        return made

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> MaskFeat:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        return cls.from_config(vit, dict(hog_cell=2))

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells in a patch."""
        return self.model.patch_size[0] // self.hog_cell, self.model.patch_size[1] // self.hog_cell

    @property
    def outputs(self) -> int:
        """Values predicted per patch."""
        hog = self.model.channels * self.hog_bins * self.cells[0] * self.cells[1]
        return hog if self.target == "hog" else self.model.patch_values

    def modules(self) -> tuple[Vit, NormLinear]:
        head = NormLinear(self.outputs, self.model.dtype, self.model.layer_norm_eps)
        return Vit(self.model, mask_token=True, final_norm=False), head

    def init(self, key, batch) -> Variables:
        encoder, head = self.modules()
        tokens = jnp.zeros((1, self.model.tokens, self.model.width))
        return Variables(params=start(key, encoder=(encoder, batch["image"][:1]), head=(head, tokens)))

    def draw(self, params, extra, frozen, batch, key, progress):
        size, count = batch["image"].shape[0], round(self.model.tokens * self.mask_ratio)
        mask_key, path_key = jax.random.split(key)
        hidden = block_hidden(mask_key, size, self.model.grid, count, min_block=max(count // 5, 1))
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": Mask(hidden, grid=self.model.grid), "drop_path": noise}

    def values(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N V"]:
        """What is to be predicted, for every patch."""
        if self.target == "hog":
            return hog_target(images, self.model.patch_size, self.hog_cell, self.hog_bins, self.gaussian_window)
        return patch_target(self.target, patchify(images, self.model.patch_size))

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, head = self.modules()
        mask, encoder_params = draws["mask"], {"params": params["encoder"]}
        latent, _ = encoder.apply(encoder_params, batch["image"], hidden=mask.hidden, noise=draws["drop_path"])
        prediction = head.apply({"params": params["head"]}, latent[:, self.model.prefix :])
        target = self.values(batch["image"])
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        return loss, Output(terms={self.target: loss}, weight=weight, trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """Normalised by the head's norm, which is the final norm of this encoder."""
        encoder, head = self.modules()
        features = vit_features(encoder, params["encoder"], images, layers)
        tokens = jnp.concatenate([features.cls[:, None], features.patches], axis=1)
        tokens = jnp.asarray(head.apply({"params": params["head"]}, tokens, method="normed"), jnp.float32)
        return features.replace(cls=tokens[:, 0], patches=tokens[:, 1:], pooled=tokens[:, 1:].mean(1))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.model.patch_size
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        prediction, hidden = output.trace["pred"], output.trace["mask"].hidden
        if self.target != "hog":
            pixels = patch_pixels(self.target, prediction, patchify(images, size))
            return patch_pictures(images, pixels, hidden, size, self.target == "norm_pix")
        pictures = patch_pictures(images, patchify(images, size), hidden, size)
        drawn = {"HOG": output.trace["target"], "predicted HOG": prediction}
        maps = {k: glyphs(v, self.model.grid, self.cells, self.model.channels) for k, v in drawn.items()}
        return Pictures({k: pictures.panels[k] for k in ("input", "masked")}, maps)

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)

    def flops(self) -> float:
        return 3 * (vit_flops(self.model) + flops.dense(self.model.tokens, self.model.width, self.outputs))
