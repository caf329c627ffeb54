"""What the methods share that predict ids of a frozen tokenizer behind mask tokens (BEiT, BEiT v2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from mim_jax.errors import ConfigError, check_choices
from mim_jax.losses.masked import masked_mean
from mim_jax.losses.tokens import token_cross_entropy
from mim_jax.masking.block import block_hidden
from mim_jax.masking.mask import Mask, mask_from_noise
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables, ViewShape
from mim_jax.methods.building import section, start
from mim_jax.methods.pictures import token_pictures
from mim_jax.methods.tokens import token_ids, token_views
from mim_jax.methods.transformers import beit_groups, vit_config, vit_features
from mim_jax.models.tokenizer import TokenizerConfig, check_grid, detokenize, tokenizer_flops, tokenizer_init
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.drop_path import drop_path_noise
from mim_jax.nn.init import INITS

# The released encoders; the first version of the paper had learned positions instead of relative ones.
FAMILY: dict[str, Any] = dict(positions="none", qkv_bias="qv", relative_bias="shared", layer_scale=0.1, init="beit")


@dataclasses.dataclass(frozen=True)
class TokenPrediction(Method):
    """The common part: BEiT's blocks behind mask tokens, the whole ViT, one linear layer, cross-entropy."""

    reads_layers: ClassVar[bool] = False  # whether `further` needs the outputs of the blocks
    tokenizer_of_tiny: ClassVar[Mapping[str, Any]] = dict(kind="vq", vocabulary=11, hidden=8)

    model: VitConfig = VitConfig(**FAMILY)
    tokenizer: TokenizerConfig = TokenizerConfig()
    num_mask_patches: int = 75  # at most; fewer where ten rectangles in a row do not fit
    min_block: int = 16  # smallest area of a rectangle, in patches
    masking: str = "block"  # block | uniform (exactly num_mask_patches, anywhere: the ablation)
    recover_all: bool = False  # predict the tokens of visible patches too (the ablation)

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> Any:
        values = section(cls, method, "method")
        values["tokenizer"] = TokenizerConfig.from_section(values.get("tokenizer", {}))
        made = cls(model=vit_config(model, FAMILY), **values)
        made.check()
        return made

    def check(self) -> None:
        """Refuses impossible values.

        Raises:
            ConfigError: names the key, the value and the nearest valid one.
        """
        check_grid(self.tokenizer, self.model.grid)
        check_choices(self, "method", masking=("block", "uniform"))
        if not 0 < self.num_mask_patches < self.model.tokens:
            raise ConfigError(
                f"method.num_mask_patches {self.num_mask_patches} must be between 1 and {self.model.tokens - 1}, "
                f"so that of {self.model.tokens} patches one is visible and one hidden"
            )
        if not 0 < self.min_block <= self.num_mask_patches:
            raise ConfigError(
                f"method.min_block {self.min_block} must be between 1 and method.num_mask_patches, "
                f"{self.num_mask_patches}"
            )

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> Any:
        return cls.tiny_of(image_size, channels, model)

    @classmethod
    def tiny_of(cls, image_size: tuple[int, int], channels: int, model: Mapping[str, Any], **method: Any) -> Any:
        """A very small instance; `method`: what it sets besides."""
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | dict(model)
        tokenizer = dict(image_size=image_size, channels=channels, stride=4, **cls.tokenizer_of_tiny)
        return cls.from_config(vit, dict(num_mask_patches=6, min_block=2, tokenizer=tokenizer) | method)

    def views(self) -> dict[str, ViewShape]:
        return token_views(self.model, self.tokenizer)

    def sources(self) -> dict[str, str]:
        return {"tokenizer": self.tokenizer.source}

    def modules(self) -> tuple[Vit, nn.Dense]:
        start = INITS[self.model.init].kernel
        return Vit(self.model, mask_token=True), nn.Dense(
            self.tokenizer.vocabulary, dtype=self.model.dtype, kernel_init=start
        )

    def init(self, key, batch) -> Variables:
        encoder, head = self.modules()
        model_key, tokenizer_key = jax.random.split(key)
        tokens = jnp.zeros((1, self.model.tokens, self.model.width))
        params = start(model_key, encoder=(encoder, batch["image"][:1]), head=(head, tokens))
        return Variables(params=params, frozen={"tokenizer": tokenizer_init(self.tokenizer, tokenizer_key)})

    def draw(self, params, extra, frozen, batch, key, progress):
        size, (mask_key, path_key) = batch["image"].shape[0], jax.random.split(key)
        noise = drop_path_noise(path_key, size, self.model.depth, self.model.drop_path_rate)
        return {"mask": Mask(self.hidden(mask_key, size), grid=self.model.grid), "drop_path": noise}

    def hidden(self, key, batch: int) -> Bool[Array, "B N"]:
        """Which patches are hidden."""
        if self.masking == "uniform":
            noise = jax.random.uniform(key, (batch, self.model.tokens))
            return mask_from_noise(noise, self.model.tokens - self.num_mask_patches, self.model.grid).hidden
        return block_hidden(key, batch, self.model.grid, self.num_mask_patches, min_block=self.min_block)

    def further(self, params, states, tokens, draws) -> tuple[dict[str, Any], dict[str, Any]]:
        """Further terms of the loss, from the outputs of the blocks, and what else is to be traced."""
        return {}, {}

    def forward(self, params, extra, frozen, batch, draws, progress):
        encoder, head = self.modules()
        mask = draws["mask"]
        tokens = token_ids(self.tokenizer, frozen["tokenizer"], batch["tokens"])
        shown = dict(hidden=mask.hidden, noise=draws["drop_path"], layers=self.reads_layers)
        latent, states = encoder.apply({"params": params["encoder"]}, batch["image"], **shown)
        logits = head.apply({"params": params["head"]}, latent[:, self.model.prefix :]).astype(jnp.float32)
        per_patch = token_cross_entropy(logits, tokens)
        loss, weight = masked_mean(per_patch, mask.hidden | self.recover_all)
        accuracy, _ = masked_mean((logits.argmax(-1) == tokens).astype(jnp.float32), mask.hidden)
        trace = dict(mask=mask, latent=latent, pred=logits, target=tokens, loss_per_patch=per_patch)
        further, more = self.further(params, states, tokens, draws)
        terms = {"tokens": loss, **further}
        return sum(terms.values()), Output(terms, {"token_accuracy": accuracy}, weight, trace=trace | more)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(self.modules()[0], params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        _, output = self.loss(params, extra, frozen, batch, key, Progress.last())
        t = output.trace
        predicted = t["pred"].argmax(-1)
        decode = partial(detokenize, self.tokenizer, frozen["tokenizer"])
        hidden = t["mask"].hidden
        return token_pictures(batch["image"], hidden, self.model.patch_size, decode, t["target"], predicted)

    def param_groups(self) -> ParamGroups:
        return beit_groups(self.model)

    def flops(self) -> float:
        head = flops.dense(self.model.tokens, self.model.width, self.tokenizer.vocabulary)
        return 3 * (vit_flops(self.model) + head) + tokenizer_flops(self.tokenizer)
