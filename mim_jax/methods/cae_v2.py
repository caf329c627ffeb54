"""CAE v2: Context Autoencoder with CLIP Latent Alignment (Zhang et al. TMLR 2023).

Hidden: half of the patches, in blocks (fewer for smaller models). Predicted: the direction of a frozen teacher's
feature for every patch and the class token. By whom: CAE's encoder and regressor, and one linear layer; no decoder, no
alignment pass. Error: one minus the cosine, over the visible, the hidden and the class token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mim_jax.errors import ConfigError
from mim_jax.losses.cosine import cosine_error
from mim_jax.masking.mask import gather_tokens
from mim_jax.masking.raster import RasterMasking
from mim_jax.methods.base import Output, Pictures, Progress, Variables
from mim_jax.methods.teachers import Taught, direction_pictures
from mim_jax.models.cae import ContextAutoencoder
from mim_jax.models.vit_config import VitConfig

FAMILY: dict[str, Any] = dict(positions="sincos_row", qkv_bias="qv", layer_scale=0.1, init="cae")


@dataclasses.dataclass(frozen=True)
class CAEv2(Taught):
    """CAE v2; the defaults are the released code."""

    name: ClassVar[str] = "cae_v2"
    scores_visible: ClassVar[bool] = True
    family: ClassVar[Mapping[str, Any]] = FAMILY

    model: VitConfig = VitConfig(**FAMILY)
    masking: str = "block"  # block | random
    num_mask_patches: int = 0  # hidden patches; 0: int(mask_ratio * patches)
    mask_ratio: float = 0.5
    min_block: int = 16
    regressor_depth: int = 4
    decoder_width: int = 768  # of the regressor; where it is not the encoder's, a projection leads there
    decoder_heads: int = 12
    decoder_layer_scale: float = 0.1
    feed_queries: bool = True  # the mask queries are keys and values too

    def check(self) -> None:
        self.sampler.check(self.model.grid)
        self.modules.check()
        if not self.model.cls_token:
            raise ConfigError("model.cls_token must be true: CAE v2 predicts the teacher's class token from it")

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> CAEv2:
        sizes = dict(regressor_depth=2, decoder_width=12, decoder_heads=2, min_block=2)
        return cls.tiny_of(image_size, channels, model, teacher=dict(outputs=6), **sizes)

    @property
    def sampler(self) -> RasterMasking:
        return RasterMasking(self.masking, self.num_mask_patches, self.mask_ratio, self.min_block)

    @property
    def modules(self) -> ContextAutoencoder:
        sizes = (self.decoder_width, self.decoder_heads, self.decoder_layer_scale)
        return ContextAutoencoder(self.model, *sizes, self.regressor_depth, 0, self.teacher.width, self.feed_queries)

    def init(self, key, batch) -> Variables:
        model_key, teacher_key = jax.random.split(key)
        mask = self.sampler.draw(jax.random.key(0), 1, self.model.grid)
        params = self.modules.init(model_key, batch["image"], mask)
        return Variables(params=params, frozen=self.teacher.start(teacher_key))

    def draw(self, params, extra, frozen, batch, key, progress):
        size = batch["image"].shape[0]
        mask_key, path_key = jax.random.split(key)
        mask = self.sampler.draw(mask_key, size, self.model.grid)
        return {"mask": mask, "drop_path": self.modules.noise(path_key, size)}

    def forward(self, params, extra, frozen, batch, draws, progress):
        cae, mask, noise = self.modules, draws["mask"], draws["drop_path"]

        def run(name, *args):
            return cae.modules()[name].apply({"params": params[name]}, *args)

        latent, tokens = cae.encode(params, batch["image"], mask.visible, noise["encoder"])
        predicted = run("regressor", tokens[:, 1:], mask, noise["regressor"])
        out = run("decoder", jnp.concatenate([tokens, predicted], axis=1))
        order = jnp.argsort(jnp.concatenate([mask.visible, mask.masked], axis=1), axis=1)
        out = jnp.concatenate([out[:, :1], gather_tokens(out[:, 1:], order)], axis=1)  # cls, then raster order
        target = self.teacher.tokens(frozen, batch["teacher"])
        error = cosine_error(out, target)
        loss, per_patch = error.mean(), error[:, 1:]
        metrics = {"hidden_cosine_error": jnp.sum(jnp.where(mask.hidden, per_patch, 0.0)) / mask.masked.size}
        trace = dict(mask=mask, latent=latent, pred=out[:, 1:], target=target[:, 1:], loss_per_patch=per_patch)
        return loss, Output({"cosine": loss}, metrics, jnp.asarray(float(error.size)), trace=trace)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        arrays = (t["mask"].hidden, t["pred"], t["target"], t["loss_per_patch"])
        return direction_pictures(batch["image"], self.model.patch_size, *arrays)

    def flops(self) -> float:
        hidden = self.sampler.count(self.model.tokens)
        return 3 * self.modules.flops(self.model.tokens - hidden, hidden)[0] + self.teacher.flops()
