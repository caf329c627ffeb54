"""BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers (Peng, Dong, Bao, Ye, Wei. 2022).

Hidden: 75 of 196 patches, in blocks, replaced by a mask token. Predicted: the id that a frozen tokenizer, which was
trained to keep a teacher's features (VQ-KD), gives each patch. By whom: the whole ViT and one linear layer; and again
two further blocks on the last class token and early patches, through the same layer. Error: both cross-entropies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import masked_mean
from mim_jax.losses.tokens import token_cross_entropy
from mim_jax.masking.block import completed
from mim_jax.methods.base import Variables
from mim_jax.methods.building import start
from mim_jax.methods.token_prediction import TokenPrediction
from mim_jax.models.patch_aggregation import PatchAggregation, aggregation_flops
from mim_jax.models.tokenizer import TokenizerConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.relative import RelativeBias

TOKENIZER = TokenizerConfig("vqkd", image_size=(224, 224), stride=16, hidden=768, blocks=12, distance="cosine")
TINY: dict[str, Any] = dict(kind="vqkd", vocabulary=11, hidden=8, blocks=1, heads=2, code_width=4, distance="cosine")


@dataclasses.dataclass(frozen=True)
class BEiTv2(TokenPrediction):
    """BEiT v2; the defaults are the released base model."""

    name: ClassVar[str] = "beitv2"
    reads_layers: ClassVar[bool] = True
    tokenizer_of_tiny: ClassVar[Mapping[str, Any]] = TINY

    tokenizer: TokenizerConfig = TOKENIZER
    early_layers: int = 9  # the block after which patches are taken
    head_layers: int = 2  # blocks of the second head; 0: none (the ablation)
    shared_head: bool = True  # one final norm and one linear layer for both

    def check(self) -> None:
        super().check()
        if not 0 < self.early_layers <= self.model.depth or self.head_layers < 0:
            raise ConfigError(
                f"method.early_layers {self.early_layers} must be between 1 and model.depth {self.model.depth}, and "
                f"method.head_layers {self.head_layers} 0 or more"
            )
        if not self.model.cls_token:
            raise ConfigError("model.cls_token must be true: the second head reads it")

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> BEiTv2:
        return cls.tiny_of(image_size, channels, model, early_layers=1)

    @property
    def aggregation(self) -> PatchAggregation:
        return PatchAggregation(self.model, self.early_layers, self.head_layers, not self.shared_head)

    def hidden(self, key, batch):
        """Exactly as many as asked for: blocks, and single patches for what they leave."""
        mask_key, rest_key = jax.random.split(key)
        return completed(rest_key, super().hidden(mask_key, batch), self.num_mask_patches)

    def init(self, key, batch) -> Variables:
        made, keys = super().init(key, batch), jax.random.split(jax.random.fold_in(key, 1))
        if self.head_layers:
            states = (jnp.zeros((1, 1 + self.model.tokens, self.model.width)),) * self.model.depth
            made.params.update(start(keys[0], aggregation=(self.aggregation, states, self.bias(made.params))))
            if not self.shared_head:
                made.params.update(start(keys[1], aggregation_head=(self.modules()[1], states[0])))
        return made

    def bias(self, params):
        """The encoder's bias of relative positions, where all blocks share one."""
        if self.model.relative_bias != "shared":
            return None
        table = {"params": params["encoder"]["relative_bias"]}
        return RelativeBias(self.model.heads, self.model.grid, self.model.cls_token).apply(table)

    def draw(self, params, extra, frozen, batch, key, progress):
        path_key, size = jax.random.fold_in(key, 1), len(batch["image"])
        noise = drop_path_noise(path_key, size, self.head_layers, self.model.drop_path_rate)
        return super().draw(params, extra, frozen, batch, key, progress) | {"head_drop_path": noise}

    def further(self, params, states, tokens, draws):
        if not self.head_layers:
            return {}, {"states": states}
        given = (states, self.bias(params), draws["head_drop_path"])
        latent = self.aggregation.apply({"params": params["aggregation"]}, *given)
        if self.shared_head:
            norm = layer_norm(None, self.model.dtype, self.model.layer_norm_eps)
            latent = norm.apply({"params": params["encoder"]["norm"]}, latent)
        layer = params["head" if self.shared_head else "aggregation_head"]
        logits = self.modules()[1].apply({"params": layer}, latent[:, 1:]).astype(jnp.float32)
        loss, _ = masked_mean(token_cross_entropy(logits, tokens), draws["mask"].hidden | self.recover_all)
        return {"cls_tokens": loss}, dict(aggregated=latent, aggregated_pred=logits)

    def flops(self) -> float:
        if not self.head_layers:
            return super().flops()
        head = flops.dense(self.model.tokens, self.model.width, self.tokenizer.vocabulary)
        return super().flops() + 3 * (aggregation_flops(self.aggregation) + head)
