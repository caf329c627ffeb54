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
from mim_jax.methods.base import Features, Method, Output, ParamGroups, Pictures, Progress, Variables, ViewShape
from mim_jax.methods.building import section
from mim_jax.methods.pictures import feature_colours, patch_pictures
from mim_jax.methods.transformers import vit_features, vit_groups
from mim_jax.models.cae import ContextAutoencoder
from mim_jax.models.teacher import TeacherConfig
from mim_jax.models.vit import Vit
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.patches import patchify

FAMILY: dict[str, Any] = dict(positions="sincos_row", qkv_bias="qv", layer_scale=0.1, init="cae")


@dataclasses.dataclass(frozen=True)
class CAEv2(Method):
    """CAE v2; the defaults are the released code."""

    name: ClassVar[str] = "cae_v2"
    scores_visible: ClassVar[bool] = True

    model: VitConfig = VitConfig(**FAMILY)
    teacher: TeacherConfig = TeacherConfig()
    masking: str = "block"  # block | random
    num_mask_patches: int = 0  # hidden patches; 0: int(mask_ratio * patches)
    mask_ratio: float = 0.5
    min_block: int = 16
    regressor_depth: int = 4
    decoder_width: int = 768  # of the regressor; where it is not the encoder's, a projection leads there
    decoder_heads: int = 12
    decoder_layer_scale: float = 0.1
    feed_queries: bool = True  # the mask queries are keys and values too

    @classmethod
    def from_config(cls, model: Mapping[str, Any], method: Mapping[str, Any]) -> CAEv2:
        values = section(cls, method, "method")
        if isinstance(values.get("teacher"), Mapping):
            values["teacher"] = TeacherConfig.from_section(values["teacher"])
        cae = cls(**values | {"model": VitConfig.from_section(FAMILY | section(VitConfig, model, "model"))})
        cae.sampler.check(cae.model.grid)
        cae.modules.check()
        if cae.teacher.model.grid != cae.model.grid:
            raise ConfigError(
                f"method.teacher.model has {cae.teacher.model.grid} patches and model {cae.model.grid}; give both the "
                "same grid"
            )
        if not cae.model.cls_token:
            raise ConfigError("model.cls_token must be true: CAE v2 predicts the teacher's class token from it")
        return cae

    @classmethod
    def tiny(cls, image_size=(16, 16), channels=3, **model) -> CAEv2:
        vit = dict(image_size=image_size, channels=channels, patch_size=4, width=16, depth=2, heads=2) | model
        teacher = dict(
            image_size=[2 * n for n in image_size], channels=channels, patch_size=8, width=8, depth=1, heads=2
        )
        statistics = dict(mean=(0.5,) * channels, std=(0.25,) * channels)
        sizes = dict(regressor_depth=2, decoder_width=12, decoder_heads=2, min_block=2)
        return cls.from_config(vit, dict(teacher=dict(model=teacher, outputs=6, **statistics), **sizes))

    @property
    def sampler(self) -> RasterMasking:
        return RasterMasking(self.masking, self.num_mask_patches, self.mask_ratio, self.min_block)

    @property
    def modules(self) -> ContextAutoencoder:
        sizes = (self.decoder_width, self.decoder_heads, self.decoder_layer_scale)
        return ContextAutoencoder(self.model, *sizes, self.regressor_depth, 0, self.teacher.width, self.feed_queries)

    def views(self) -> dict[str, ViewShape]:
        teacher = ViewShape(self.teacher.model.image_size, self.teacher.model.channels, normalize=False)
        return {"image": ViewShape(self.model.image_size, self.model.channels), "teacher": teacher}

    def sources(self) -> dict[str, str]:
        return {"teacher": self.teacher.source}

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

    def encode(self, params, images, *, extra=None, layers=False) -> Features:
        return vit_features(Vit(self.model), params["encoder"], images, layers)

    def show(self, params, extra, frozen, batch, key) -> Pictures:
        t = self.loss(params, extra, frozen, batch, key, Progress.last())[1].trace
        images, size, hidden = batch["image"], self.model.patch_size, t["mask"].hidden
        plain = patch_pictures(images, patchify(images, size), hidden, size).panels
        # Directions alone are compared, and both in one colour space.
        unit = [x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in (t["pred"], t["target"])]
        colours = feature_colours(jnp.concatenate(unit), self.model.grid, jnp.concatenate([images, images]))
        drawn = dict(zip(("features predicted", "teacher's features"), jnp.split(colours, 2), strict=True))
        error = jnp.maximum(t["loss_per_patch"], 0.0).reshape(-1, *self.model.grid)
        error = jnp.repeat(jnp.repeat(error, size[0], 1), size[1], 2)
        return Pictures({"input": images, "masked": plain["masked"]} | drawn, {"error": error})

    def param_groups(self) -> ParamGroups:
        return vit_groups(self.model.depth)

    def flops(self) -> float:
        hidden = self.sampler.count(self.model.tokens)
        return 3 * self.modules.flops(self.model.tokens - hidden, hidden)[0] + self.teacher.flops()
