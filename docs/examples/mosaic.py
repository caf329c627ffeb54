"""Mosaic: an example of a method, worked through in docs/adding_a_method.md.

Hidden: 60 % of the patches, at random, behind a mask token. Predicted: each hidden patch as a mosaic, the mean colours
of 2 x 2 cells. By whom: a ViT that sees all patches, and one linear layer. Error: mean square over the hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.random import random_mask, visible_count
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise


@dataclasses.dataclass(frozen=True)
class Mosaic(Method):
    """The fields are the keys of the config's section `method`."""

    name: ClassVar[str] = "mosaic"

    model: VitConfig = VitConfig()
    mask_ratio: float = 0.6
    cells: int = 2  # along each side of a patch

    # ---- From a config, with impossible values refused in one sentence ------------------------------------------

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Mosaic:
        made = cls(model=vit_config(model), **section(cls, method, "method"))
        visible_count(made.model.tokens, made.mask_ratio)  # refuses a ratio that hides nothing, or all
        for side in made.model.patch_size:
            if made.cells < 1 or side % made.cells:
                raise ConfigError(
                    f"method.cells {made.cells} does not divide model.patch_size {side}; choose 1 or {side}"
                )
        return made

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> Mosaic:
        sizes = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2)
        return cls.from_config(sizes | model, {})

    # ---- By whom -----------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> int:
        """Values predicted per patch."""
        return self.cells**2 * self.model.channels

    def modules(self) -> tuple[Vit, nn.Dense]:
        return Vit(self.model, mask_token=True), nn.Dense(self.outputs, dtype=self.model.dtype)

    def init(self, key, batch) -> Variables:
        encoder, head = self.modules()
        tokens = jnp.zeros((1, 1, self.model.width))
        return Variables(params=start(key, encoder=(encoder, batch["image"][:1]), head=(head, tokens)))

    # ---- What is hidden: every random choice of a batch is made here -----------------------------------------------

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": random_mask(mask_key, size, self.model.grid, self.mask_ratio), "drop_path": noise}

    # ---- What is predicted, and how the error is measured ----------------------------------------------------------

    def target(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N P"]:
        """The mean colour of every cell, patches in raster order."""
        (h, w), k = self.model.grid, self.cells
        return einops.reduce(images, "b (h i p) (w j q) c -> b (h w) (i j c)", "mean", h=h, w=w, i=k, j=k)

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, head = self.modules()
        images, mask = batch["image"], draws["mask"]
        latent, _ = encoder.apply({"params": params["encoder"]}, images, hidden=mask.hidden, noise=draws["drop_path"])
        latent = latent[:, self.model.prefix :]  # without the class token
        prediction = head.apply({"params": params["head"]}, latent)
        target = self.target(images)
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        return loss, Output(terms={"mosaic": loss}, weight=weight, trace=trace)

    # ---- What evaluation, pictures and the optimizer ask ------------------------------------------------------------

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.modules()[0], params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        size, k = self.model.patch_size, self.cells
        values = output.trace["pred"].astype(jnp.float32)
        tiles = dict(i=k, j=k, p=size[0] // k, q=size[1] // k)
        pixels = einops.repeat(values, "b n (i j c) -> b n (i p j q c)", c=self.model.channels, **tiles)
        return patch_pictures(batch["image"], pixels, output.trace["mask"].hidden, size)

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)

    def flops(self) -> float:
        return 3 * (vit_flops(self.model) + flops.dense(self.model.tokens, self.model.width, self.outputs))
