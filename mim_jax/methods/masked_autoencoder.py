"""What MAE (He et al. CVPR 2022) and its relatives share: an encoder that sees the visible patches only, a small
decoder that puts mask tokens where the others were, and the error of the hidden patches' pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import check_choices
from mim_jax.losses.masked import masked_mean, squared_error
from mim_jax.masking.mask import Mask
from mim_jax.masking.random import random_mask, visible_count
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Tree, Variables
from mim_jax.methods.building import section, start
from mim_jax.methods.pictures import patch_pictures
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.mae_decoder import MaeDecoder, mae_decoder_flops
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig, check_heads
from mim_jax.nn.block import StackConfig
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.patches import patchify
from mim_jax.targets.patch_values import patch_pixels, patch_target


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoder(Method):
    """The common part; a relative changes its mask, what goes from the encoder to the decoder, or adds to the loss."""

    targets: ClassVar[tuple[str, ...]] = ("norm_pix", "pixel")
    family: ClassVar[Mapping[str, Any]] = {}  # what the method sets in `model` where the config says nothing

    model: VitConfig = VitConfig()
    mask_ratio: float = 0.75
    target: str = "norm_pix"  # norm_pix (standardised per patch) | pixel
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]):
        made = cls(model=cls.encoder_config(model), **cls.settings(section(cls, method, "method")))
        made.check()
        return made

    @classmethod
    def encoder_config(cls, model: Mapping[str, Any]) -> Any:
        """The section `model`, checked."""
        return vit_config(model, cls.family)

    @classmethod
    def settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The section `method` with its own sections turned into what the fields hold."""
        return values

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        visible_count(self.model.tokens, self.mask_ratio)
        check_heads(self.decoder_width, self.decoder_heads, "method", "decoder_")
        check_choices(self, "method", target=self.targets)

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model):
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)
        return cls.from_config(vit, decoder | cls.tiny_settings(image_size, channels))

    @classmethod
    def tiny_settings(cls, image_size: tuple[int, int], channels: int) -> dict[str, Any]:
        """What a very small instance sets besides the sizes of encoder and decoder."""
        return {}

    @property
    def outputs(self) -> int:
        """Values predicted per patch."""
        return self.model.patch_values

    @property
    def seen(self) -> int:
        """Patches that the encoder processes."""
        return visible_count(self.model.tokens, self.mask_ratio)

    @property
    def row_first(self) -> bool:
        """Whether the halves of the decoder's position table are in the order of the encoder's `sincos_row`."""
        return self.model.positions == "sincos_row"

    @property
    def decoder_stack(self) -> StackConfig:
        depth, heads = self.decoder_depth, self.decoder_heads
        return dataclasses.replace(self.model.stack, depth=depth, heads=heads, drop_path_rate=0.0)

    def modules(self) -> tuple[Any, Any]:
        """Encoder and decoder."""
        return Vit(self.model), MaeDecoder(
            self.decoder_width, self.decoder_stack, self.outputs, self.row_first, self.model.prefix
        )

    def parts(self, images: Float[Array, "1 H W C"]) -> dict[str, tuple]:
        """The trained modules with examples of their arguments, as `building.start` takes them."""
        encoder, decoder = self.modules()
        latent = jnp.zeros((1, self.model.prefix + self.seen, self.model.width))
        mask = random_mask(jax.random.key(0), 1, self.model.grid, self.mask_ratio)  # for its shape
        return {"encoder": (encoder, images), "decoder": (decoder, latent, mask)}

    def init(self, key, batch) -> Variables:
        return Variables(params=start(key, **self.parts(batch["image"][:1])))

    def mask(self, key, batch: int, frozen: Tree = None) -> Mask:
        """What is hidden; `frozen` holds what a mask may be made from."""
        return random_mask(key, batch, self.model.grid, self.mask_ratio)

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": self.mask(mask_key, size, frozen), "drop_path": noise}

    def latent(self, params, images, draws) -> tuple[Float[Array, "B T D"], dict[str, Any]]:
        """Tokens of the visible patches for the decoder, and what else is to be traced."""
        shown = {"visible": draws["mask"].visible, "noise": draws["drop_path"]}
        return self.modules()[0].apply({"params": params["encoder"]}, images, **shown)[0], {}

    def forward(self, params, extra, frozen, batch, draws, progress):
        images, mask = batch["image"], draws["mask"]
        latent, found = self.latent(params, images, draws)
        prediction = self.modules()[1].apply({"params": params["decoder"]}, latent, mask)
        target = patch_target(self.target, patchify(images, self.model.patch_size), frozen.get("basis"))
        per_patch = squared_error(prediction, target)
        loss, weight = masked_mean(per_patch, mask.hidden)
        trace = dict(mask=mask, latent=latent, pred=prediction, target=target, loss_per_patch=per_patch)
        return loss, Output(terms={"reconstruction": loss}, weight=weight, trace=trace | found)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.modules()[0], self.encoder_params(params, extra), images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        images, size = batch["image"], self.model.patch_size
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        prediction = patch_pixels(self.target, output.trace["pred"], patchify(images, size), frozen.get("basis"))
        return patch_pictures(images, prediction, output.trace["mask"].hidden, size, self.target == "norm_pix")

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)

    def flops(self) -> float:
        return 3 * (vit_flops(self.model, self.seen) + self.decoder_flops())

    def decoder_flops(self) -> float:
        """Forward FLOPs of the decoder for one image."""
        sizes = (self.seen, self.model.tokens, self.model.width, self.decoder_width)
        return mae_decoder_flops(*sizes, self.decoder_stack, self.outputs, self.model.prefix)
