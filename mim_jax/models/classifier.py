"""A vision transformer, plain or behind convolutions, with a linear classifier: what fine-tuning trains (He et al.
2022, appendix A.1; BEiT; CAE; ConvMAE; MultiMAE)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError
from mim_jax.models.conv_vit import ConvVit
from mim_jax.models.conv_vit_config import ConvVitConfig
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.norms import layer_norm

POOLINGS = ("mean", "cls", "all")


class Classified(NamedTuple):
    """logits: (B, K), float32. features: (B, D), float32, what the linear head receives.

    layers: the tokens after every block, before any final norm, (B, T, D) each; empty unless asked for.
    tokens: (B, T, D), float32, what was pooled; None where the caller brought them.
    """

    logits: Float[Array, "B K"]
    features: Float[Array, "B D"]
    layers: tuple[Float[Array, "B T D"], ...] = ()
    tokens: Float[Array, "B T D"] | None = None


class Classifier(nn.Module):
    """Encoder, pooling, linear head.

    Positions 'sincos' become trainable, started there (MAE); 'sincos_row' stay fixed (CAE); the others are as in
    pretraining. A relative position bias is taken as `config` says: BEiT, CAE and SimMIM fine-tune with a table in
    every block ('per_block').

    pooling: 'mean' averages the patch tokens (cls walks along but is left out) and normalises the average with a new
        norm `fc_norm`; the encoder's own final norm does not exist then. 'all' does so with the class token too
        (MultiMAE's global token). 'cls' takes the class token after the encoder's final norm.
    classes: outputs of the head. 0 leaves it out: the logits are then the features.
    head_std: deviation of the head's start, near zero (normal 2e-5, bias 0: the original truncates at +-2, which is
        100,000 standard deviations), so that fine-tuning starts from near-uniform logits.
    """

    config: VitConfig | ConvVitConfig
    classes: int
    pooling: str = "mean"
    head_std: float = 2e-5

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], noise: Float[Array, "B L 2"] | None = None, layers: bool = False
    ) -> Classified:
        """Logits and features of normalised images; `noise` drives drop path.

        Raises:
            ConfigError: a pooling that does not exist, or 'cls' without a class token.
        """
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling '{self.pooling}' is not one of {', '.join(POOLINGS)}")
        if self.pooling == "cls" and not self.config.cls_token:
            raise ConfigError("pooling 'cls' needs an encoder with model.cls_token; use 'mean'")
        config, mean = self.config, self.pooling != "cls"
        if config.positions == "sincos":
            config = dataclasses.replace(config, positions="learned_sincos")
        kind: Any = ConvVit if isinstance(config, ConvVitConfig) else Vit
        tokens, outputs = kind(config, final_norm=not mean, name="encoder")(images, noise=noise, layers=layers)
        tokens = tokens.astype(jnp.float32)
        if mean:
            pooled = tokens if self.pooling == "all" else tokens[:, config.prefix :]
            features = layer_norm("fc_norm", epsilon=config.layer_norm_eps)(pooled.mean(axis=1))
        else:
            features = tokens[:, 0]
        if not self.classes:
            return Classified(features, features, outputs, tokens)
        head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.head_std), name="head")
        return Classified(head(features), features, outputs, tokens)
