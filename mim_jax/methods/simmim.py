"""SimMIM: A Simple Framework for Masked Image Modeling (Xie, Zhang, Cao, Lin, Bao, Yao, Dai, Hu. CVPR 2022), and On
Data Scaling in Masked Image Modeling (Xie et al. CVPR 2023), which is the same system at more sizes.

Hidden: 60 % of the squares of 32 pixels, at random. Predicted: their pixels, raw or normalised by a window around
each. By whom: an encoder that sees all patches, the hidden ones as a mask token (ViT, Swin or Swin V2), and one linear
layer. Error: mean absolute difference over the hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError, check_choices, nearest
from mim_jax.losses.masked_pixels import masked_l1
from mim_jax.masking.mask import Mask
from mim_jax.masking.units import unit_count, unit_grid, unit_mask
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.hierarchical import last_tokens, swin_features, swin_groups
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_features, vit_groups
from mim_jax.models.swin import Swin, swin_flops
from mim_jax.models.swin_config import ARCHS, SwinConfig
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.init import fan_in_uniform
from mim_jax.nn.patches import patchify, pixel_shuffle
from mim_jax.targets.local_norm import check_window, local_norm, local_norm_flops, undo_local_norm

TARGETS = ("pixel", "local_norm")
# What SimMIM's vision transformer is, beside its sizes: BEiT's, with positions in the shared table alone.
VIT: dict[str, Any] = dict(positions="none", qkv_bias="qv", layer_scale=0.1, relative_bias="shared", init="beit")


@dataclasses.dataclass(frozen=True)
class SimMIM(Method):
    """SimMIM; the defaults are the paper's. `model.arch` says which encoder: vit | swin | swinv2."""

    name: ClassVar[str] = "simmim"

    model: VitConfig | SwinConfig = VitConfig(**VIT)
    mask_ratio: float = 0.6
    mask_unit: int = 32  # side of the squares that are hidden, in pixels
    target: str = "pixel"  # pixel | local_norm (Swin V2)
    target_window: int = 47  # side of the window of local_norm, in pixels

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> SimMIM:
        arch = model.get("arch", "vit")
        if arch not in ("vit", *ARCHS):
            raise ConfigError(f"model.arch '{arch}' is not known{nearest(arch, ('vit', *ARCHS))}")
        kind = VitConfig if arch == "vit" else SwinConfig
        sizes = section(kind, {k: v for k, v in model.items() if k != "arch"}, "model")
        encoder = kind.from_section((VIT if kind is VitConfig else {"arch": arch}) | sizes)
        simmim = cls(model=encoder, **section(cls, method, "method"))
        check_choices(simmim, "method", target=TARGETS)
        units = unit_grid(encoder.image_size, encoder.patch_size, simmim.mask_unit)
        unit_count(units[0] * units[1], simmim.mask_ratio)
        check_window(simmim.target_window)
        return simmim

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> SimMIM:
        stages = dict(patch_size=2, depths=(2, 2), heads=(1, 2), window_size=2)
        sizes = dict(patch_size=4, depth=2, heads=2) if model.get("arch", "vit") == "vit" else stages
        sizes = dict(image_size=image_size, channels=channels, width=16) | sizes | model
        return cls.from_config(sizes, dict(mask_unit=8))

    def modules(self) -> tuple[Vit | Swin, nn.Dense]:
        c, (_, (rows, columns), width) = self.model, last_tokens(self.model)
        encoder = Vit(c, mask_token=True) if isinstance(c, VitConfig) else Swin(c, mask_token=True)
        start = fan_in_uniform(width)  # the framework's default, for the bias too
        return encoder, nn.Dense(rows * columns * c.channels, dtype=c.dtype, kernel_init=start, bias_init=start)

    def init(self, key, batch) -> Variables:
        encoder, head = self.modules()
        tokens = jnp.zeros((1, 1, last_tokens(self.model)[2]))
        return Variables(params=start(key, encoder=(encoder, batch["image"][:1]), head=(head, tokens)))

    def mask(self, key, batch: int) -> Mask:
        units = unit_grid(self.model.image_size, self.model.patch_size, self.mask_unit)
        return unit_mask(key, batch, units, self.model.grid, self.mask_ratio)

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": self.mask(mask_key, size), "drop_path": noise}

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, head = self.modules()
        mask, images, (grid, stride, _) = draws["mask"], batch["image"], last_tokens(self.model)
        choices = {"hidden": mask.hidden, "noise": draws["drop_path"]}
        latent, _ = encoder.apply({"params": params["encoder"]}, images, **choices)
        latent = latent[:, -grid[0] * grid[1] :]  # without the class token
        prediction = head.apply({"params": params["head"]}, latent)
        reconstruction = pixel_shuffle(prediction, stride, grid).astype(jnp.float32)
        target = images if self.target == "pixel" else local_norm(images, self.target_window)
        pixels = mask.hidden.reshape(-1, *self.model.grid)
        for axis, side in enumerate(self.model.patch_size, start=1):
            pixels = jnp.repeat(pixels, side, axis=axis)
        loss, weight = masked_l1(reconstruction, target, pixels)
        trace = dict(mask=mask, latent=latent, pred=prediction, reconstruction=reconstruction, target=target)
        return loss, Output(terms={"reconstruction": loss}, weight=weight, trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        encoder, _ = self.modules()
        if isinstance(encoder, Vit):
            return vit_features(encoder, params["encoder"], images, layers)
        return swin_features(encoder, params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.model.patch_size
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        prediction, local = output.trace["reconstruction"], self.target == "local_norm"
        if local:
            prediction = undo_local_norm(prediction, images, self.target_window)
        return patch_pictures(images, patchify(prediction, size), output.trace["mask"].hidden, size, local)

    def param_groups(self) -> ParamGroups:
        """The original's: its exemption of position tables by keyword never fires in pretraining."""
        c = self.model
        if isinstance(c, SwinConfig):
            groups, names = swin_groups(c.depths), ["mask_token"]
        else:
            groups, names = vit_groups(c.depth), ["cls_token"]
        names += ["pos_embed"] * (c.positions != "none")
        return dataclasses.replace(groups, no_decay=tuple(f"encoder/{name}$" for name in names))

    def flops(self) -> float:
        c, (grid, stride, width) = self.model, last_tokens(self.model)
        encoder = vit_flops(c) if isinstance(c, VitConfig) else swin_flops(c)
        target = local_norm_flops(c.image_size, c.channels) if self.target == "local_norm" else 0
        return 3 * (encoder + flops.dense(grid[0] * grid[1], width, stride[0] * stride[1] * c.channels)) + target
