"""What the methods share whose encoder is a vision transformer behind masked convolutions (ConvMAE, DMJD)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Features, ParamGroups
from mim_jax.methods.building import section
from mim_jax.methods.masked_autoencoder import MaskedAutoencoder
from mim_jax.methods.transformers import conv_vit_groups, vit_features
from mim_jax.models.conv_vit import ConvVit, conv_vit_flops, first_embed_flops
from mim_jax.models.conv_vit_config import FINETUNING, ConvVitConfig
from mim_jax.nn.block import StackConfig


@dataclasses.dataclass(frozen=True)
class ConvVitAutoencoder(MaskedAutoencoder):
    """A masked autoencoder whose encoder adds the maps of its stem to what its transformer says of visible tokens.

    decoder_mlp_ratio: in the authors' codes that of the stem's first stage, by accident; so the numbers ask for it.
    """

    model: ConvVitConfig = ConvVitConfig()  # type: ignore[assignment]
    decoder_mlp_ratio: int | float = 4.0

    @classmethod
    def encoder_config(cls, model: Mapping[str, Any]) -> ConvVitConfig:
        return ConvVitConfig.from_section({**cls.family, **section(ConvVitConfig, model, "model")})

    def check(self) -> None:
        super().check()
        for key in FINETUNING:
            if getattr(self.model, key) != getattr(ConvVitConfig, key):
                raise ConfigError(
                    f"model.{key} {getattr(self.model, key)!r} is for fine-tuning; {self.name} has no such thing in "
                    f"pretraining, so leave it at {getattr(ConvVitConfig, key)!r}"
                )

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model):
        sizes = dict(stem_width=(6, 8), stem_depth=(1, 2), strides=(2, 2, 1), width=16, depth=2, heads=2)
        sizes |= dict(stem_mlp_ratio=(2, 2), image_size=image_size, channels=channels)
        decoder = dict(decoder_width=8, decoder_depth=1, decoder_heads=2)
        return cls.from_config(sizes | model, decoder | cls.tiny_settings(image_size, channels))

    @property
    def decoder_stack(self) -> StackConfig:
        return dataclasses.replace(super().decoder_stack, mlp_ratio=float(self.decoder_mlp_ratio), init="mae")

    def modules(self) -> tuple[Any, Any]:
        return ConvVit(self.model, fuse=True), super().modules()[1]

    def latent(self, params, images, draws):
        shown = {"visible": draws["mask"].visible, "hidden": draws["mask"].hidden}
        return self.modules()[0].apply({"params": params["encoder"]}, images, **shown)[0], {}

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        """Without the fusion of the stem's maps, which the authors drop when they judge an encoder by its classes."""
        return vit_features(ConvVit(self.model), self.encoder_params(params, extra), images, layers)

    def param_groups(self) -> ParamGroups:
        return conv_vit_groups(self.model.depth)

    def flops(self) -> float:
        encoder = 3 * conv_vit_flops(self.model, self.seen, fuse=True) - first_embed_flops(self.model)
        return encoder + 3 * self.decoder_flops()
