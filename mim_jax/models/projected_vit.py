"""A vision transformer whose class token passes a projector with batch norm (MSN, section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mim_jax.models.batch_norm_head import BatchNormHead, batch_norm_head_flops
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.init import NORMAL

LAYERS = 3  # of the projector


@dataclasses.dataclass(frozen=True)
class ProjectedVit:
    """Encoder and projector: layers of width `hidden`, the last of width `outputs`. batch_norm: between them."""

    config: VitConfig
    hidden: int
    outputs: int
    batch_norm: bool = True

    def modules(self) -> tuple[Vit, BatchNormHead]:
        sizes = (LAYERS, self.hidden, self.batch_norm, "gelu", False, self.config.dtype)
        return Vit(self.config), BatchNormHead(*sizes, outputs=self.outputs, bias=True, start=NORMAL)

    def init(self, key: PRNGKeyArray, images: Float[Array, "B H W C"]) -> tuple[dict[str, Any], Any]:
        """Parameters (`encoder`, `head`), and the running statistics of the batch norms."""
        (encoder, head), (encoder_key, head_key) = self.modules(), jax.random.split(key)
        made = head.init(head_key, jnp.zeros((2, self.config.width)))
        params = dict(encoder=encoder.init(encoder_key, images)["params"], head=made["params"])
        return params, made.get("batch_stats", {})

    def embed(
        self, params: Mapping[str, Any], statistics: Any, images: Float[Array, "B H W C"], **shown: Any
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B E"], Any]:
        """Tokens, the projected class token, and the moments of this batch for the running statistics.

        shown: what else the encoder takes: `visible`, `noise`.
        """
        encoder, head = self.modules()
        tokens, _ = encoder.apply({"params": params["encoder"]}, images, **shown)
        given = {"params": self._without_noise(params["head"]), "batch_stats": statistics}
        embedding, moments = head.apply(given, tokens[:, 0], mutable=["batch_stats"])
        return tokens, embedding, moments.get("batch_stats", {})

    def _without_noise(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Biases before a batch norm, which takes them out again, without gradient: it is 0 but for rounding, of which
        Adam would make whole steps."""
        first = [f"linear_{i}" for i in range(LAYERS - 1)] if self.batch_norm else []
        still = {name: {**head[name], "bias": jax.lax.stop_gradient(head[name]["bias"])} for name in first}
        return {**head, **still}

    def flops(self, patches: int) -> float:
        """Forward FLOPs for an image of which the encoder sees so many patches."""
        head = batch_norm_head_flops(self.config.width, self.hidden, LAYERS, self.outputs, bias=True)
        return vit_flops(self.config, patches) + head
