"""What BEiT-like methods share that predict a frozen teacher's features behind mask tokens (dBOT from CLIP, EVA)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.cosine import cosine_error
from mim_jax.losses.masked import masked_mean
from mim_jax.masking.block import block_hidden
from mim_jax.masking.mask import Mask
from mim_jax.methods.base import Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import start
from mim_jax.methods.teachers import Taught, direction_pictures
from mim_jax.methods.transformers import beit_groups
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.init import INITS


@dataclasses.dataclass(frozen=True)
class FeaturePrediction(Taught):
    """The common part: BEiT's blocks behind mask tokens, the whole ViT, one linear layer, one minus the cosine."""

    num_mask_patches: int = 75  # at most; fewer where ten rectangles in a row do not fit
    min_block: int = 16  # smallest area of a rectangle, in patches
    predict_cls: bool = False  # the teacher's class token is a target too, in every image

    def check(self) -> None:
        tokens = self.model.tokens
        if not 0 < self.min_block <= self.num_mask_patches < tokens:
            raise ConfigError(
                f"method.num_mask_patches {self.num_mask_patches} must be below the number of patches, {tokens}, and "
                f"at least method.min_block {self.min_block}, which must be at least 1"
            )
        if not self.model.cls_token:
            raise ConfigError(f"model.cls_token must be true: {self.name} has a class token")

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model):
        return cls.tiny_of(image_size, channels, model, num_mask_patches=6, min_block=2)

    def modules(self) -> tuple[Vit, nn.Dense]:
        kernel = INITS[self.model.init].kernel
        head = nn.Dense(self.teacher.width, dtype=self.model.dtype, kernel_init=kernel)
        return Vit(self.model, mask_token=True), head

    def init(self, key, batch) -> Variables:
        (encoder, head), keys = self.modules(), jax.random.split(key)
        tokens = jnp.zeros((1, self.model.tokens, self.model.width))
        params = start(keys[0], encoder=(encoder, batch["image"][:1]), head=(head, tokens))
        return Variables(params=params, frozen=self.teacher.start(keys[1]))

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, path_key) = len(batch["image"]), jax.random.split(key)
        hidden = block_hidden(mask_key, size, self.model.grid, self.num_mask_patches, min_block=self.min_block)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": Mask(hidden, grid=self.model.grid), "drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        (encoder, head), mask = self.modules(), draws["mask"]
        given = dict(hidden=mask.hidden, noise=draws["drop_path"], layers=True)
        latent, states = encoder.apply({"params": params["encoder"]}, batch["image"], **given)
        counted, first = mask.hidden, 0 if self.predict_cls else 1
        if self.predict_cls:
            counted = jnp.concatenate([jnp.ones_like(counted[:, :1]), counted], axis=1)
        prediction = head.apply({"params": params["head"]}, latent[:, first:]).astype(jnp.float32)
        target = self.teacher.tokens(frozen, batch["teacher"])[:, -counted.shape[1] :]
        error = cosine_error(prediction, target)
        loss, weight = masked_mean(error, counted)
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=error)
        return loss, Output({"cosine": loss}, weight=weight, trace=trace | dict(counted=counted, states=states))

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        arrays = (t[name][:, -self.model.tokens :] for name in ("pred", "target", "loss_per_patch"))
        return direction_pictures(batch["image"], self.model.patch_size, t["mask"].hidden, *arrays)

    def param_groups(self) -> ParamGroups:
        return beit_groups(self.model)

    def flops(self) -> float:
        tokens = self.model.tokens + self.predict_cls
        head = flops.dense(tokens, self.model.width, self.teacher.width)
        return 3 * (vit_flops(self.model) + head) + self.teacher.flops()
