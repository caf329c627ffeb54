"""CAE: Context Autoencoder for Self-Supervised Representation Learning (Chen et al. arXiv 2202.03026, IJCV 2023).

Hidden: half of the patches, in blocks. Predicted: the features that the encoder itself gives the hidden patches, and
from these the ids of a frozen tokenizer. By whom: a ViT that sees the visible patches only, a cross-attention regressor
for the features, a decoder that sees nothing but what the regressor predicts. Error: cross-entropy, plus twice the mean
square between predicted and true features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.masked import squared_error
from mim_jax.losses.tokens import token_cross_entropy
from mim_jax.masking.raster import RasterMasking, place_masked
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables, ViewShape
from mim_jax.methods.building import section
from mim_jax.methods.pictures import feature_colours, token_pictures
from mim_jax.methods.tokens import token_ids, token_views
from mim_jax.methods.transformers import vit_config, vit_features, vit_groups
from mim_jax.models.cae import ContextAutoencoder
from mim_jax.models.tokenizer import TokenizerConfig, check_grid, detokenize, tokenizer_flops, tokenizer_init
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig

FAMILY: dict[str, Any] = dict(positions="sincos_row", qkv_bias="qv", layer_scale=0.1, init="cae")


@dataclasses.dataclass(frozen=True)
class CAE(Method):
    """Context autoencoder; the defaults are the released code, which ignores some of its own flags (see the fields)."""

    name: ClassVar[str] = "cae"

    model: VitConfig = VitConfig(**FAMILY)
    tokenizer: TokenizerConfig = TokenizerConfig()
    masking: str = "block"  # block | random
    num_mask_patches: int = 0  # hidden patches; 0: int(mask_ratio * patches)
    mask_ratio: float = 0.5
    min_block: int = 16  # smallest area of a rectangle, in patches
    regressor_depth: int = 4
    decoder_depth: int = 4
    decoder_width: int = 768  # of regressor and decoder; where it is not the encoder's, a projection leads there
    decoder_heads: int = 12  # of both; the code's flag for it never reaches the model
    decoder_layer_scale: float = 0.1  # of both; likewise, so it is 0.1 beside an encoder with 1e-5 (CAE-L)
    align_weight: float = 2.0
    feed_queries: bool = True  # regressor: the mask queries are keys and values too (the paper draws them out)

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> CAE:
        values = section(cls, method, "method")
        if isinstance(values.get("tokenizer"), Mapping):
            values["tokenizer"] = TokenizerConfig.from_section(values["tokenizer"], "method.tokenizer")
        cae = cls(**values | {"model": vit_config(model, FAMILY)})
        check_grid(cae.tokenizer, cae.model.grid)
        cae.sampler.check(cae.model.grid)
        cae.modules.check()
        if cae.decoder_depth < 1:
            raise ConfigError(f"method.decoder_depth {cae.decoder_depth} must be at least 1")
        return cae

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> CAE:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        tokenizer = dict(kind="vq", image_size=image_size, channels=channels, stride=4, vocabulary=11, hidden=8)
        sizes = dict(regressor_depth=2, decoder_depth=1, decoder_width=12, decoder_heads=2, min_block=2)
        return cls.from_config(vit, dict(tokenizer=tokenizer, **sizes))

    @property
    def sampler(self) -> RasterMasking:
        return RasterMasking(self.masking, self.num_mask_patches, self.mask_ratio, self.min_block)

    @property
    def modules(self) -> ContextAutoencoder:
        sizes = (self.decoder_width, self.decoder_heads, self.decoder_layer_scale)
        depths = (self.regressor_depth, self.decoder_depth)
        return ContextAutoencoder(self.model, *sizes, *depths, self.tokenizer.vocabulary, self.feed_queries)

    def views(self) -> dict[str, ViewShape]:
        return token_views(self.model, self.tokenizer)

    def sources(self) -> dict[str, str]:
        return {"tokenizer": self.tokenizer.source}

    def init(self, key, batch) -> Variables:
        model_key, tokenizer_key = jax.random.split(key)
        mask = self.sampler.draw(jax.random.key(0), 1, self.model.grid)
        params = self.modules.init(model_key, batch["image"], mask)
        return Variables(params=params, frozen={"tokenizer": tokenizer_init(self.tokenizer, tokenizer_key)})

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        mask = self.sampler.draw(mask_key, size, self.model.grid)
        return {"mask": mask, "drop_path": self.modules.noise(path_key, size)}

    def forward(self, params, extra, frozen, batch, draws, progress):
        cae, mask, noise, images = self.modules, draws["mask"], draws["drop_path"], batch["image"]

        def run(name, *args):
            return cae.modules()[name].apply({"params": params[name]}, *args, mask, noise[name])

        latent, visible = cae.encode(params, images, mask.visible, noise["encoder"])
        # The code's alignment encoder is re-pointed at the encoder in every step: it IS the encoder without gradient.
        _, target = cae.encode(jax.lax.stop_gradient(params), images, mask.masked, noise["target"])
        visible, target = visible[:, self.model.prefix :], jax.lax.stop_gradient(target[:, self.model.prefix :])
        predicted = run("regressor", visible)
        logits = run("decoder", predicted)
        tokens = token_ids(self.tokenizer, frozen["tokenizer"], batch["tokens"])
        labels = jnp.take_along_axis(tokens, mask.masked, axis=1)
        per_patch = token_cross_entropy(logits, labels)
        terms = {"tokens": per_patch.mean(), "align": self.align_weight * squared_error(predicted, target).mean()}
        accuracy = (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
        trace = dict(
            mask=mask, latent=latent, tokens=tokens, pred=logits.reshape(labels.size, -1), labels=labels.ravel()
        )
        trace |= dict(visible=visible, predicted=predicted, target=target, loss_per_patch=per_patch)
        weight = jnp.asarray(float(labels.size))
        return sum(terms.values()), Output(terms, {"token_accuracy": accuracy}, weight, trace=trace)

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(Vit(self.model), params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        mask, images, true = t["mask"], batch["image"], t["tokens"]
        found = place_masked(true, t["pred"].argmax(-1).reshape(mask.masked.shape), mask)
        decode = partial(detokenize, self.tokenizer, frozen["tokenizer"])
        pictures = token_pictures(images, mask.hidden, self.model.patch_size, decode, true, found)
        # Both in one colour space, so that a difference of colour is one of features; visible patches are blank.
        blank = jnp.zeros((*true.shape, self.decoder_width))
        placed = [place_masked(blank, t[name].astype(jnp.float32), mask) for name in ("predicted", "target")]
        colours = feature_colours(jnp.concatenate(placed), mask.grid, jnp.concatenate([images, images]))
        panels = dict(zip(("features predicted", "features"), jnp.split(colours, 2), strict=True))
        return pictures.replace(panels=pictures.panels | panels)

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)  # the code looks for exceptions from decay on the wrong object: none

    def flops(self) -> float:
        hidden = self.sampler.count(self.model.tokens)
        trained, target = self.modules.flops(self.model.tokens - hidden, hidden)
        return 3 * trained + target + tokenizer_flops(self.tokenizer)
