"""A ResNet or ConvNeXt with its usual head: what SparK fine-tunes (Tian et al. 2023)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.models.classifier import Classified
from mim_jax.models.conv_config import ConvConfig
from mim_jax.models.convnets import convnet
from mim_jax.nn.init import fan_in_uniform
from mim_jax.nn.norms import layer_norm


class ConvClassifier(nn.Module):
    """Encoder, mean over the last map, in a ConvNeXt a layer norm (`fc_norm`), linear head.

    running: batch norms use the stored statistics, as in evaluation; else those of the batch, which the collection
        `batch_stats` holds on return where it is mutable (`nn.sparse.BatchNorm`).
    head_std: deviation of the head's start; 0: uniform in +-1/sqrt(width), PyTorch's default, which ResNets keep.
    """

    config: ConvConfig
    classes: int
    running: bool = False
    head_std: float = 0.0

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], noise: Float[Array, "B L"] | None = None, layers: bool = False
    ) -> Classified:
        """Logits and features of normalised images; `noise`, one number per image and block, drives drop path."""
        maps = convnet(self.config, self.running, name="encoder")(images, noise=noise)
        outputs = tuple(x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32) for x in maps)
        features = outputs[-1].mean(axis=1)
        if self.config.arch == "convnext":
            features = layer_norm("fc_norm")(features)
        uniform = fan_in_uniform(features.shape[-1])
        start = nn.initializers.normal(self.head_std) if self.head_std else uniform
        bias = nn.initializers.zeros if self.head_std else uniform
        head = nn.Dense(self.classes, kernel_init=start, bias_init=bias, name="head")
        return Classified(head(features), features, outputs if layers else (), outputs[-1])
